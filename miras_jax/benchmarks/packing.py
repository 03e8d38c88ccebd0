"""Conversations about one image in one row, against one row each: the same step, timed.

Lengths as PRIST's: three conversations an image, 576 image tokens, about 150 tokens of
talk (DESIGN section 3). The model is `tiny` with a 24 x 24 grid of image tokens; both
batches hold the same conversations.

  miras bench packing
  miras bench packing --images=4 --talks=3 --talk=150 --steps=5
"""

import dataclasses

from miras_jax.benchmarks.step import full_batch, time_step
from miras_jax.config import file as config_file
from miras_jax.options import Parser

PREFIX = 40  # system text and the tokens around the image
GRID = 24
# The tiny towers over 24 x 24 cells: as many image tokens as CLIP-L at 336 pixels has.
OVERRIDES = {
  "clip.image_size": 8 * GRID,
  "convnext.image_size": 8 * GRID,
  "convnext.target_grid": GRID,
}


def main(argv):
  """Runs the benchmark; returns 0."""
  parser = Parser(prog="miras bench packing", description=__doc__)
  parser.add_argument("--images", type=int, default=2, help="in a batch")
  parser.add_argument("--talks", type=int, default=3, help="conversations an image")
  parser.add_argument("--talk", type=int, default=150, help="tokens of a conversation")
  parser.add_argument("--steps", type=int, default=3, help="timed steps")
  args = parser.parse_args(argv)
  prefix = PREFIX + GRID**2
  count = args.images * args.talks
  alone = _run(count, prefix + args.talk, 1, args.steps)
  packed = _run(args.images, prefix + args.talks * args.talk, args.talks, args.steps)
  for name, (rows, length, step_s) in {"alone": alone, "packed": packed}.items():
    print(
      f"{name:8} {rows:3} rows x {length:4} tokens = {rows * length:6},"
      f" {1e3 * step_s:8.1f} ms a step, {count / step_s:6.1f} conversations/s"
    )
  tokens = 1 - packed[0] * packed[1] / (alone[0] * alone[1])
  print(f"saved    {tokens:.0%} of the tokens; {alone[2] / packed[2]:.2f}x as fast")
  return 0


def _run(rows, length, talks, steps):
  """(rows, tokens a row, seconds a step) of `rows` rows of `talks` conversations."""
  config = config_file.read("configs/prist_quickstart.py")
  overrides = config.model.overrides | OVERRIDES | {"llama.vocab_size": 704}
  model = dataclasses.replace(config.model, overrides=overrides)
  data = dataclasses.replace(config.data, pack=talks, max_masks=talks, max_len=length)
  config = dataclasses.replace(config, model=model, data=data, batch_size=rows)
  batch = full_batch(config.model.build(), config)
  return rows, length, time_step(config, batch, steps).step_s
