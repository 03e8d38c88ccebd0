"""The whole training step, conversations a second: ours against PyTorch eager.

The batch is PRIST's shape: some images, three conversations about each, 576 image
tokens, about 150 tokens of talk and one mask a conversation (`--images`, `--talks`,
`--talk`). Both sides have equal part sizes, float32 and random weights, compute token
cross entropy, mask cross entropy and dice, clip the gradient and take an AdamW step on
adapters, token table, head, [SEG] projection and mask decoder; towers, mining and
projector are frozen. No dropout, no alignment, no reading of data on either side.

  published     PyTorch eager, `transformers` parts: one row a conversation; CLIP,
                ConvNeXt, mining, projector and SAM's encoder run for every row without
                gradient; the decoder by scaled dot-product attention; logits and [SEG]
                projections of every position. In its favour: pixels come normalised,
                and masks are compared at the decoder's own resolution, not full size.
  packed        ours: the trainer's step on one row an image, its conversations behind
                one shared prefix; towers run in the step, once an image.
  cached        ours: the same, with the features of `miras data cache` in the batch:
                no tower runs. What making the cache once costs is not in it.
  alone         ours, one row a conversation, towers in the step. What the compiler
                alone gives. Not timed unless `--sides` names it.

The ratio of "cached" is what a training run on cached features sees; that of "packed"
is the fair one of equal work by the step. Sides take turns on the same device, medians
are compared. The sizes of `--size=small` (default) keep the 7B's proportions between
its parts, as the printed shares show; `--size=tiny` is to see it run. Needs `pip
install torch==2.13.0 transformers`.

  miras bench prist
  miras bench prist --images=4 --rounds=5 --sides=published,alone,packed
  miras bench prist --size=7b --talk=136 --sides=published,cached   # on a GPU
  miras bench prist --size=7b --sides=cached --config.model.overrides.llama.remat=dots

The full sizes are for accelerators: bfloat16 on both sides (PyTorch's trained weights
too), attention by cuDNN on a GPU and by splash on a TPU, everything rematerialised
unless the config says otherwise. `--talk=136` makes packed rows of 1,024 tokens. A chip
whose peak is known gets its MFU, a device that counts it its peak memory.
"""

import dataclasses
import os
from typing import NamedTuple

import jax
import numpy as np

from configs import common
from input_pipeline import batch_table
from miras_jax.benchmarks.packing import PREFIX
from miras_jax.benchmarks.step import Step, full_batch, import_torch_side
from miras_jax.benchmarks.turns import split_sides, take_turns
from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.models import flops
from miras_jax.models.miras import batch_sizes, slot_names
from miras_jax.options import Parser
from miras_jax.parallel import chips
from miras_jax.training import meters

# fmt: off
SIZES = {
  "small": {
    "clip.width": 64, "clip.mlp_width": 256, "clip.depth": 4, "clip.num_heads": 4,
    "clip.image_size": 336, "clip.patch_size": 14,
    "convnext.dims": (24, 48, 96, 192), "convnext.depths": (1, 1, 3, 1),
    "convnext.image_size": 384, "convnext.target_grid": 48,
    "llama.width": 256, "llama.mlp_width": 688, "llama.depth": 8,
    "llama.num_heads": 4, "llama.num_kv_heads": 4, "llama.head_dim": 64,
    "llama.vocab_size": 2048, "llama.scan_unroll": 8,
    "sam_encoder.image_size": 512, "sam_encoder.patch_size": 16,
    "sam_encoder.width": 144, "sam_encoder.depth": 8, "sam_encoder.num_heads": 4,
    "sam_encoder.global_layers": (7,), "sam_encoder.window_size": 7,
    "sam_decoder.mlp_width": 512,
  },
  "tiny": {"clip.image_size": 192, "convnext.image_size": 192,
           "convnext.target_grid": 24, "llama.vocab_size": 704},
}
# fmt: on
# As published: rank 8 on q_proj and v_proj; alignment is not in stage 2.
LORA = {"llama.lora_rank": 8, "llama.lora_alpha": 16.0, "seg_prompt.alignment": "none"}
LARGE = ("1b", "7b", "13b")
ATTENTION = {"cpu": "blocked", "gpu": "cudnn", "tpu": "splash"}
LABELS = {
  "published": "PyTorch eager, one row a conversation, towers in the step",
  "alone": "ours, one row a conversation, towers in the step",
  "packed": "ours, one row an image, towers in the step",
  "cached": "ours, one row an image, cached features",
}


class Form(NamedTuple):
  """Of a side: conversations of an image share a row; features come with the batch."""

  packed: bool = False
  cached: bool = False


FORMS = {
  "published": Form(),
  "alone": Form(),
  "packed": Form(packed=True),
  "cached": Form(packed=True, cached=True),
}


def main(argv):
  """Runs the benchmark; returns 0. UserError where PyTorch is needed and missing."""
  args = parse(argv)
  # Two frameworks share the device: neither may take all of its memory at once.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  torch_side = import_torch_side("prist") if "published" in args.sides else None
  configs = {name: _config(args, packed=FORMS[name].packed) for name in args.sides}
  counts = {
    name: flops.example(config, cached=FORMS[name].cached)
    for name, config in configs.items()
  }
  _print_flops(args, configs, counts)
  steps = {}
  for name, config in configs.items():
    if name == "published":
      steps[name] = _torch_step(args, config, torch_side)
      continue
    step = Step(config, our_batch(args, config, cached=FORMS[name].cached))
    print(f"{name}: compiled in {step.compile_s:.0f} s", flush=True)
    steps[name] = _waits(step)
  medians = take_turns(steps, args.rounds)
  done = {name: counts[name].useful * configs[name].batch_size for name in medians}
  _print_times(args, medians, done)
  _print_memory(torch_side)
  return 0


def parse(argv):
  """The options; `fields` holds those of the config. Raises UserError."""
  argv, fields = config_file.split_fields(argv)
  parser = Parser(prog="miras bench prist", description=__doc__)
  add = parser.add_argument
  add("--size", choices=[*SIZES, *LARGE], default="small", help="of the model")
  add("--images", type=int, default=2, help="in a batch")
  add("--talks", type=int, default=3, help="conversations an image")
  add("--talk", type=int, default=150, help="tokens of a conversation")
  add("--rounds", type=int, default=3, help="timed steps of each side")
  add("--sides", default="published,packed,cached", help="which are timed")
  args = parser.parse_args(argv)
  for name in ("images", "talks", "rounds"):
    if getattr(args, name) < 1:
      raise UserError(f"--{name}={getattr(args, name)} must be at least 1")
  if args.talk < 8:
    raise UserError(f"--talk={args.talk}: a conversation has at least 8 tokens")
  args.sides = split_sides(args.sides, FORMS)
  args.fields = fields
  return args


def model_config(size, fields=()):
  """RunConfig of a published stage with a model of `size` (SIZES or LARGE).

  fields: [(name, value)] of the config that differ.
  """
  large = size in LARGE
  c = common.lora_config(
    size if large else "tiny", ATTENTION.get(jax.default_backend(), "xla")
  )
  c.optim.accumulation = 1
  sizes = {} if large else SIZES[size] | {"llama.attention": "blocked"}
  for name, value in (LORA | sizes).items():
    config_file.override(c, f"model.overrides.{name}", repr(value))
  for name, value in fields:  # last: what the user says is never overridden
    config_file.override(c, name, value)
  return RunConfig.from_config_dict(c)


def _config(args, *, packed):
  """RunConfig of our side: rows of `talks` conversations, or of one."""
  config = model_config(args.size, args.fields)
  talks = args.talks if packed else 1
  rows = args.images if packed else args.images * args.talks
  cfg = config.model.build()
  data = dataclasses.replace(
    config.data, pack=talks, max_masks=talks,
    max_len=PREFIX + cfg.num_image_tokens + talks * args.talk,
  )  # fmt: skip
  resolution = 4 * cfg.sam_encoder.grid
  return dataclasses.replace(
    config, data=data, batch_size=rows, loss_resolution=resolution
  )


def _torch_step(args, config, torch_side):
  """One step of "published"."""
  cfg = config.model.build()
  if cfg.encoder != "dual":
    raise UserError(
      f"--sides=published is of encoder='dual', not {cfg.encoder!r}; leave it out"
    )
  batch = torch_batch(args, config)
  return torch_side.make_step(cfg, config.loss, config.optim, batch, config.model.dtype)


def our_batch(args, config, *, cached):
  """A packed Batch; `cached`: with features in place of pixels, as from the cache."""
  cfg, data, rng = config.model.build(), config.data, np.random.default_rng(0)
  batch = full_batch(cfg, config)
  prefix = PREFIX + cfg.num_image_tokens
  after_T = np.arange(data.max_len) - prefix  # tokens since the shared prefix
  talk_T = np.maximum(after_T, 0) // args.talk
  shared_T = (after_T < 0) | (data.pack == 1)
  rows = {
    "segments": np.where(shared_T, 1, talk_T + 2),
    "positions": prefix + np.where(after_T < 0, after_T, after_T % args.talk),
    "loss_mask": (after_T >= 0) & (after_T % args.talk >= args.talk // 2),
  }
  seg_M = prefix + args.talk * (np.arange(data.pack) + 1) - 2
  batch["seg_pos"] = np.tile(seg_M, (config.batch_size, 1)).astype(np.int32)
  for name, row_T in rows.items():
    batch[name] = np.tile(row_T, (config.batch_size, 1)).astype(np.int32)
  half = cfg.sam_encoder.image_size // 2
  batch["masks"] = np.zeros_like(batch["masks"])
  batch["masks"][..., half // 2 : half, half // 2 :] = 1
  return _with_features(batch, cfg, rng) if cached else batch


def _with_features(batch, cfg, rng):
  """The batch with random features in place of pixels."""
  features = sorted(batch_table.feature_names())
  sizes = batch_sizes(cfg, batch_size=len(batch["tokens"]))
  values = {n: rng.normal(size=batch_table.shape(n, sizes)) for n in features}
  cached = {n: x.astype(batch_table.TABLE[n].dtype) for n, x in values.items()}
  kept = batch_table.names([*features, *slot_names(cfg)])
  return {n: x for n, x in batch.items() if n in kept} | cached


def torch_batch(args, config):
  """The published form of the same: what `torch_side.make_step` takes."""
  ours = our_batch(args, config, cached=False)
  side = config.loss_resolution
  B, canvas = len(ours["tokens"]), ours["masks"].shape[-1]
  masks = ours["masks"].reshape(B, side, canvas // side, side, -1).mean((2, 4))
  views = {name: ours[f"image_{name}"] for name in ("aux", "sam")}
  return {
    "tokens": ours["tokens"].astype(np.int64),
    "labels": np.where(ours["loss_mask"], ours["tokens"], -100).astype(np.int64),
    "seg_pos": ours["seg_pos"][:, 0].astype(np.int64),
    "masks": masks.astype(np.float32),
  } | {
    name: np.moveaxis(view, -1, 1).astype(np.float32) / 128 - 1
    for name, view in views.items()
  }


def _waits(step):
  return lambda: jax.block_until_ready(step())


def _print_times(args, medians, done):
  """done: {side: useful FLOPs of a step}."""
  count = args.images * args.talks
  chip = chips.find(jax.devices()[0].device_kind)
  for name, median in medians.items():
    rate, speed = count / median, done[name] / median
    share = f" MFU {speed / chip.peak_flops / jax.device_count():.2f}" if chip else ""
    print(
      f"{name:10} {median:8.3f} s a step, {rate:7.2f} examples/s,"
      f" {speed / 1e12:7.2f} TFLOP/s{share}  {LABELS[name]}"
    )
  for name in medians:
    if "published" in medians and name != "published":
      ratio = medians["published"] / medians[name]
      print(f"ratio      {ratio:8.2f}x  {name} over published")


def _print_memory(torch_side):
  """Peaks since the start; nothing on a CPU, where nobody counts."""
  if peak := meters.memory().get("hbm_peak_gb"):
    print(f"memory     {peak:8.1f} GB at most for our sides together")
  if torch_side and (peak := torch_side.peak_gb()):
    print(f"memory     {peak:8.1f} GB at most for published")


def _print_flops(args, configs, counts):
  """GFLOP of each part a conversation, forward and backward; shares beside the 7B's.

  By flops.py, so of least work: it does not know that `published` projects every cell.
  """
  plain = _config(args, packed=False)
  large = RunConfig.from_config_dict(common.lora_config("7b", "xla"))
  overrides = large.model.overrides | {"seg_prompt.alignment": "none"}
  large = dataclasses.replace(
    large, data=plain.data, model=dataclasses.replace(large.model, overrides=overrides)
  )
  ours, theirs = flops.example(plain).parts, flops.example(large).parts
  head = [f"{name:>10}" for name in counts] + [" share", " in 7B"]
  print(f"{'GFLOP a conversation':20}", *head)
  for part in [*ours, "total"]:
    row = [
      _of(x.parts, part) / configs[name].data.pack / 1e9 for name, x in counts.items()
    ]
    shares = [_of(p, part) / _of(p, "total") for p in (ours, theirs)]
    cells = [f"{x:10.3f}" for x in row] + [f"{s:6.1%}" for s in shares]
    print(f"{part:20}", *cells)


def _of(parts, name):
  return sum(parts.values()) if name == "total" else parts.get(name, 0.0)
