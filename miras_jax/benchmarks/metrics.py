"""Masks scored in every convention against a loop that takes each pair as a whole.

Both sides get the same COCO run lengths and give the same numbers: intersection, areas,
boundary IoU and the published overlap of Canny edges of each pair. The loop is what one
writes first: decode, numpy for the areas, `cv2.erode` for the band, scikit-image's
`canny` for the edges; it runs on some of the pairs, since it is slow. All metrics with
their intervals are part of our time. The targets are outlines of 6 % to 80 % of the
side, their sizes evenly spread on a logarithmic scale; a prediction is off by a little,
and some are empty or elsewhere.

  miras bench metrics
  miras bench metrics --masks=500 --size=512 --workers=1
"""

import os
import time

import cv2
import numpy as np

from input_pipeline import mask_ops
from miras_jax.errors import UserError
from miras_jax.evaluation import metrics, pair_scores
from miras_jax.options import Parser

CORNERS = 48  # of an outline
COARSE = 4  # a prediction's pixels are that many of the image's, before it is smoothed


def main(argv):
  """Runs the benchmark; returns 0, or 1 where the two sides differ."""
  parser = Parser(prog="miras bench metrics", description=__doc__)
  add = parser.add_argument
  add("--masks", type=int, default=5000, help="pairs to score (5000)")
  add("--distinct", type=int, default=500, help="of them different; then again (500)")
  add("--size", type=int, default=1024, help="pixels of a side (1024)")
  add("--sample", type=int, default=40, help="pairs that the loop takes (40)")
  add("--workers", type=int, default=os.cpu_count(), help="threads (all cores)")
  args = parser.parse_args(argv)
  for name, value in vars(args).items():
    if value < 1:
      raise UserError(f"--{name}={value} must be at least 1")
  distinct = min(args.distinct, args.masks)
  pairs = make_pairs(distinct, args.size)
  every = [pairs[i % distinct] for i in range(args.masks)]
  covered = [mask_ops.rle_area(true) / args.size**2 for _, true in pairs]
  print(
    f"{args.masks} pairs of {args.size} x {args.size}, {distinct} of them different,"
    f" targets of {np.median(covered):.1%} of the image (median; largest"
    f" {max(covered):.0%})"
  )
  ours = _timed("ours", args.masks, lambda: score(every, args.workers))
  sample = every[: args.sample]
  loop = _timed("loop", len(sample), lambda: [score_plainly(*pair) for pair in sample])
  wall, cpu = (b / a for a, b in zip(ours[1:], loop[1:], strict=True))
  print(f"{wall:.1f} times as fast by the clock, {cpu:.1f} times by processor time")
  differing = sum(a != b for a, b in zip(ours[0], loop[0], strict=False))
  print(f"{len(sample) - differing} of {len(sample)} pairs are equal to the last bit")
  return int(differing > 0)


def _timed(name, count, work):
  """(result, seconds a pair, processor seconds a pair)."""
  clock, processor = time.perf_counter(), time.process_time()
  result = work()
  wall, cpu = time.perf_counter() - clock, time.process_time() - processor
  print(
    f"{name:5} {count:5} pairs in {wall:7.2f} s, {cpu:7.2f} s of processor time:"
    f" {1e3 * wall / count:7.2f} ms a pair"
  )
  return result, wall / count, cpu / count


def score(pairs, workers) -> list[dict]:
  """The scores of pairs of RLEs, after every metric has been made of them."""
  found = pair_scores.scores_of_all(pairs, edges=True, workers=workers)
  table = {key: np.array([row[key] for row in found]) for key in found[0]}
  metrics.mask_metrics(table | {"image": np.arange(len(found))})
  return found


def score_plainly(rle, true_rle) -> dict:
  """The scores of one pair, each mask as a whole."""
  pred, true = (mask_ops.decode_rle(x).astype(bool) for x in (rle, true_rle))
  return {
    "inter": int(np.logical_and(pred, true).sum()),
    "pred": int(pred.sum()),
    "true": int(true.sum()),
    "biou": metrics.boundary_iou(pred, true),
    "biou_canny": metrics.published_biou(pred, true),
  }


def make_pairs(count, size, seed=0) -> list[tuple[dict, dict]]:
  """(prediction, target) RLEs, the same for a seed."""
  rng = np.random.default_rng(seed)
  return [_pair(rng, size) for _ in range(count)]


def _pair(rng, size):
  radius = size * np.exp(rng.uniform(np.log(0.03), np.log(0.4)))
  centre = rng.uniform(0.1 * size, 0.9 * size, 2)
  shape = _radii(rng)
  true_HW = _draw(centre, radius * shape, size)
  kind = rng.random()
  if kind < 0.05:
    pred_HW = np.zeros_like(true_HW)
  elif kind < 0.1:
    pred_HW = _draw(rng.uniform(0, size, 2), radius * _radii(rng), size)
  else:
    off = centre + rng.normal(0, 0.05 * radius, 2)
    pred_HW = _coarse(_draw(off, radius * shape * (1 + 0.1 * _radii(rng)), size))
  return mask_ops.encode_rle(pred_HW), mask_ops.encode_rle(true_HW)


def _radii(rng):
  """A bumpy outline around 1 by angle: (CORNERS,)."""
  angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
  waves = np.arange(1, 7)[:, None]
  heights, phases = rng.normal(0, 0.25, (6, 1)) / waves, rng.uniform(0, 6.3, (6, 1))
  return np.clip(1 + (heights * np.sin(waves * angle + phases)).sum(0), 0.3, 2)


def _draw(centre, radii, size):
  angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
  outline = centre + radii[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
  return mask_ops.rasterise_polygons([outline], size, size)


def _coarse(mask_HW):
  """The mask as a model gives it: logits of a coarse grid, made large."""
  height, width = mask_HW.shape
  small = cv2.resize(
    mask_HW.astype(np.float32),
    (max(1, width // COARSE), max(1, height // COARSE)),
    interpolation=cv2.INTER_AREA,
  )
  return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
