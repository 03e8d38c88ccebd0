"""A LoRA step of the bare decoder, ours against PyTorch eager, in one run.

Llama of equal shape, batch and length on both sides: base weights frozen, LoRA on
q_proj and v_proj, next-token cross entropy on every position, AdamW on the adapters,
float32. PyTorch is `transformers.LlamaForCausalLM` with scaled dot-product attention,
and needs `pip install torch==2.13.0`. Both run in turn on the same device, medians are
compared.

  miras bench decoder
  miras bench decoder --width=512 --depth=8 --length=512 --batch_size=4
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from miras_jax.benchmarks.step import import_torch_side
from miras_jax.benchmarks.turns import take_turns
from miras_jax.config.model import LlamaConfig
from miras_jax.models.attention import segment_mask
from miras_jax.models.llama import Llama
from miras_jax.models.trees import merge, split
from miras_jax.options import Parser
from miras_jax.training import losses

RANK, ALPHA, LR, VOCAB = 8, 16.0, 3e-4, 8192


def main(argv):
  """Runs the benchmark; returns 0."""
  parser = Parser(prog="miras bench decoder", description=__doc__)
  parser.add_number("--width", 512, least=64, help="a multiple of 64")
  parser.add_number("--depth", 8, help="layers")
  parser.add_number("--length", 512, least=2, help="tokens of a row")
  parser.add_number("--batch_size", 4, help="rows")
  parser.add_number("--rounds", 5, help="timed steps of each side")
  args = parser.parse_args(argv)
  cfg = LlamaConfig(
    width=args.width,
    mlp_width=4 * args.width,
    depth=args.depth,
    num_heads=args.width // 64,
    num_kv_heads=args.width // 64,
    head_dim=64,
    vocab_size=VOCAB,
    lora_rank=RANK,
    lora_alpha=ALPHA,
    attention="blocked",
    scan_unroll=args.depth,
  )
  rng = np.random.default_rng(0)
  tokens_BT = rng.integers(0, VOCAB, (args.batch_size, args.length), np.int32)
  sides = {"jax": jax_step(cfg, tokens_BT), "torch": torch_step(cfg, tokens_BT)}
  medians = take_turns(sides, args.rounds)
  for name, median in medians.items():
    rate = tokens_BT.size / median
    print(f"{name:6} {1e3 * median:9.1f} ms a step, {rate:9.0f} tokens/s")
  print(f"ratio  {medians['torch'] / medians['jax']:.2f}x (above 1: ours is faster)")
  return 0


def jax_step(cfg, tokens_BT):
  """A function without arguments that takes one step and returns its loss."""
  model = Llama(cfg)
  B, T = tokens_BT.shape
  positions_BT = jnp.tile(jnp.arange(T), (B, 1))
  mask_BTS = segment_mask(jnp.ones((B, T), jnp.int32))

  def init(key):
    def both(module, tokens_BT):
      hidden = module(module.embed(tokens_BT), positions_BT, mask_BTS)
      return module.logits(hidden)

    return {"llm": model.init(key, tokens_BT[:, :T], method=both)["params"]}

  params = jax.jit(init)(jax.random.key(0))
  trainable, frozen = split(params, (r"/lora_[ab]$",))
  tx = optax.adamw(LR, b1=0.9, b2=0.95, weight_decay=0.0)

  def loss_of(trainable, frozen, tokens_BT):
    llm = merge(trainable, frozen)["llm"]
    x_BTD = model.apply({"params": llm}, tokens_BT, method="embed")
    hidden_BTD = model.apply({"params": llm}, x_BTD, positions_BT, mask_BTS)
    everywhere = jnp.ones_like(tokens_BT)
    head_DV = llm["lm_head"]["kernel"]
    return losses.chunked_token_ce(
      hidden_BTD, head_DV, tokens_BT, everywhere, normaliser=tokens_BT.size - B
    )

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(trainable, opt_state, frozen, tokens_BT):
    loss, grads = jax.value_and_grad(loss_of)(trainable, frozen, tokens_BT)
    updates, opt_state = tx.update(grads, opt_state, trainable)
    return optax.apply_updates(trainable, updates), opt_state, loss

  state = [trainable, tx.init(trainable)]

  def run():
    *state[:], loss = step(*state, frozen, tokens_BT)
    return float(loss)

  run()  # compiles
  return run


def torch_step(cfg, tokens_BT):
  """The same of PyTorch; UserError where it is not installed."""
  side = import_torch_side("decoder")
  torch = side.torch
  model = side.make_model(lambda: side.llama(cfg), "float32")
  model.requires_grad_(False)
  adapters = []
  for layer in model.model.layers:
    for name in cfg.lora_targets:
      adapters += side.add_lora(getattr(layer.self_attn, name))
  optimizer = torch.optim.AdamW(adapters, lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
  tokens = torch.from_numpy(tokens_BT.astype(np.int64)).to(model.device)

  def run():
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()

  run()  # warms up
  return run
