"""Answering a question: prefill and new tokens, ours against transformers' `generate`.

Rows of 576 image tokens, a question and its history; then `--new` tokens each, greedy,
none ends early. Ours is the compiled program that chat and evaluation run (prefill, a
loop over tokens, the states that [SEG] reads), its layers apart and the adapters merged
(`inference/prepare.py`); `scanned` is the same with the stack and the adapters that
were trained. Image encodings are given, as in every turn after the first. PyTorch eager
is `LlamaForCausalLM.generate` of equal shape, type and device on embeddings of the same
length, with its KV cache and without LoRA. All take turns, medians are compared.
Prefill is timed with one new token; what the others add is the time of a token. On a
machine that others use, `taskset -c 0 miras bench decode --clock=cpu` is steadier.

  miras bench decode
  miras bench decode --rows=8 --new=128 --sides=ours,scanned,torch
  miras bench decode --size=7b --sides=ours      # an accelerator; `--sides=ours,torch`

`bound` is what reading the decoder's weights once a token allows on a chip whose memory
bandwidth is known. Needs `pip install torch==2.13.0 transformers` for its side.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import batch_table
from input_pipeline.tokenizer import TokenIds
from miras_jax.benchmarks import prist
from miras_jax.benchmarks.packing import PREFIX
from miras_jax.benchmarks.step import import_torch_side
from miras_jax.benchmarks.turns import CLOCKS, split_sides, take_turns
from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.inference.generator import Generator
from miras_jax.inference.prepare import prepare
from miras_jax.models.miras import Miras, batch_sizes, init_params
from miras_jax.models.trees import merge
from miras_jax.options import Parser
from miras_jax.parallel import chips
from miras_jax.training import initial_state, meters

NEVER = -1  # a token id that no row generates
SIDES = ("ours", "scanned", "torch")


def main(argv):
  """Runs the benchmark; returns 0. UserError where PyTorch is needed and missing."""
  args = parse(argv)
  # Two frameworks share the device: neither may take all of its memory at once.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  torch_side = import_torch_side("decode") if "torch" in args.sides else None
  config = prist.model_config(args.size, args.fields)
  cfg = config.model.build()
  length = PREFIX + cfg.num_image_tokens + args.talk
  makers = {
    "ours": our_answer,
    "scanned": functools.partial(our_answer, apart=False),
    "torch": functools.partial(torch_answer, torch_side),
  }
  answers = {name: makers[name](config, args.rows, length) for name in args.sides}
  times = _time(answers, args)
  print(f"{args.rows} rows x {length} tokens of prompt, {args.new} new ones each")
  for name, (prefill_s, token_s) in times.items():
    rate = args.rows / token_s
    print(
      f"{name:7} prefill {1e3 * prefill_s:8.1f} ms, a token {1e3 * token_s:7.2f} ms,"
      f" {rate:8.1f} tokens/s{_bound(config, token_s)}"
    )
  for name in times.keys() - {"ours"} if "ours" in times else ():
    pairs = zip(times[name], times["ours"], strict=True)
    prefill, token = (theirs / ours for theirs, ours in pairs)
    print(
      f"ratio  prefill {prefill:.2f}x, a token {token:.2f}x of {name} (above 1: ours"
      " faster)"
    )
  if peak := meters.memory().get("hbm_peak_gb"):
    print(f"memory {peak:.1f} GB at most for ours")
  return 0


def parse(argv):
  """The options; `fields` holds those of the config. Raises UserError."""
  argv, fields = config_file.split_fields(argv)
  parser = Parser(prog="miras bench decode", description=__doc__)
  add = parser.add_argument
  add("--size", choices=[*prist.SIZES, *prist.LARGE], default="small")
  add("--rows", type=int, default=1, help="conversations answered together")
  add("--talk", type=int, default=150, help="tokens of question and history")
  add("--new", type=int, default=64, help="tokens of an answer")
  add("--rounds", type=int, default=3, help="timed answers of each side")
  add("--sides", default="ours,torch", help="which are timed")
  add("--clock", choices=CLOCKS, default="wall", help="cpu: seconds of the process")
  args = parser.parse_args(argv)
  for name, least in {"rows": 1, "talk": 1, "new": 2, "rounds": 1}.items():
    if getattr(args, name) < least:
      raise UserError(f"--{name}={getattr(args, name)} must be at least {least}")
  args.sides = split_sides(args.sides, SIDES)
  args.fields = fields
  return args


def our_params(config, *, apart=True):
  """(MirasConfig, random parameters) as inference takes them, else as they train."""
  cfg = config.model.build()

  def init(key):
    return merge(*initial_state.split_params(init_params(cfg, key), config))

  params = initial_state.run_once(init, None, jax.random.key(0))
  return prepare(cfg, params) if apart else (cfg, params)


def no_ids():
  """Token ids of control tokens that no row generates."""
  return TokenIds(**{name: NEVER for name in TokenIds._fields})._replace(pad=0)


def our_answer(config, rows, length, *, apart=True):
  """Function that answers `rows` prompts with so many new tokens, and returns them.

  apart: with the parameters that inference takes, else as they are trained.
  """
  cfg, params = our_params(config, apart=apart)
  dtype = jnp.dtype(config.model.dtype)
  batch = prompts(cfg, rows, length)
  sizes = batch_sizes(cfg, batch_size=rows)
  shapes = {n: batch_table.shape(n, sizes) for n in batch_table.feature_names()}
  encoded = {
    "image_tokens": jnp.ones(shapes["image_tokens"], dtype),
    "sam": jnp.ones(shapes["sam_features"], dtype),
  }

  @functools.cache
  def generator(new):
    return Generator(Miras(cfg, dtype), params, no_ids(), max_new_tokens=new)

  def answer(new):
    return jax.block_until_ready(generator(new).generate(batch, encoded))["tokens"]

  return answer


def prompts(cfg, rows, length):
  """Full prompt rows that begin with their image tokens; the rest is random."""
  sizes = batch_sizes(cfg, batch_size=rows, length=length)
  tokens = np.random.default_rng(0).integers(0, cfg.llama.vocab_size // 2, length)
  slots = np.full(length, -1)
  slots[: cfg.num_image_tokens] = np.arange(cfg.num_image_tokens)
  row = {n: batch_table.filled(n, sizes) for n in batch_table.prompt_names()}
  row |= {
    "tokens": tokens,
    "positions": np.arange(length),
    "segments": np.ones(length),
    "image_slot": slots,
  }
  return {name: np.tile(x.astype(np.int32), (rows, 1)) for name, x in row.items()}


def torch_answer(torch_side, config, rows, length):
  """The same of transformers' Llama."""
  torch, cfg = torch_side.torch, config.model.build().llama
  model = torch_side.make_model(
    lambda: torch_side.llama(cfg), config.model.dtype
  ).eval()
  embeds = torch.randn(rows, length, cfg.width, dtype=model.dtype, device=model.device)

  @torch.inference_mode()
  def answer(new):
    return model.generate(
      inputs_embeds=embeds, max_new_tokens=new, min_new_tokens=new, do_sample=False,
      eos_token_id=None, pad_token_id=0,
    ).cpu()  # fmt: skip

  return answer


def _time(answers, args):
  """{side: (seconds of prefill and a token, seconds of a token more)}, medians."""
  sides = {
    (name, new): functools.partial(_checked, name, answer, args.rows, new)
    for name, answer in answers.items()
    for new in (1, args.new)
  }
  median = take_turns(sides, args.rounds, args.clock)
  times = {}
  for name in answers:
    first_s, all_s = median[name, 1], median[name, args.new]
    if all_s <= first_s:
      raise UserError(
        f"{name}: {args.new} tokens were no slower than one, which is noise; ask for"
        f" more, e.g. --new={8 * args.new} --rounds={args.rounds + 2}"
      )
    times[name] = first_s, (all_s - first_s) / (args.new - 1)
  return times


def _checked(name, answer, rows, new):
  tokens = answer(new)
  if tokens.shape != (rows, new):
    raise AssertionError(f"{name} made tokens of shape {tokens.shape}")


def _bound(config, token_s):
  """What share of the chip's memory bandwidth a token reaches, where it is known."""
  chip = chips.find(jax.devices()[0].device_kind)
  if not chip:
    return ""
  llama = config.model.build().llama
  attn = 2 * llama.width * llama.head_dim * (llama.num_heads + llama.num_kv_heads)
  weights = llama.depth * (attn + 3 * llama.width * llama.mlp_width)
  weights += llama.width * llama.vocab_size
  least_s = weights * jnp.dtype(config.model.dtype).itemsize / chip.hbm_bandwidth
  return f", {least_s / token_s:.0%} of the bound ({1e3 * least_s:.2f} ms)"
