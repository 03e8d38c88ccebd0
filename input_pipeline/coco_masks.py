"""The segmentations of COCO's files: polygons by COCO's own raster rule, and RLE.

What is measured on these sets is measured with masks of that rule, which is about half
a pixel tighter than the outline of `mask_ops`. Suffixes: N points, E edges, P places.
"""

import numpy as np

from input_pipeline import mask_ops

_SCALE = 5  # outlines are walked on a grid this much finer than the pixels
MAX_PLACES = 5_000_000  # on that grid; an outline round a photograph has 10,000
# `mask_ops.MAX_WORK` in these: a part, a pixel of its columns, a pixel of an RLE.
_PART_WORK, _COLUMN_WORK, _RLE_WORK = 100_000, 3, 1


def union(segmentation, height: int, width: int) -> np.ndarray:
  """A `segmentation` of a COCO file -> mask_HW uint8 of 0 or 1.

  Polygons `[[x, y, ...], ...]`, an RLE or a list of RLE; their union. Nothing at all
  ([] or None) is an empty mask. A polygon of fewer than three points encloses nothing
  and is left out. Raises ValueError for what is none of these or of another size, and
  for more than can be drawn in some seconds.
  """
  mask_HW = np.zeros((height, width), np.uint8)
  parts = [segmentation] if isinstance(segmentation, dict) else segmentation or ()
  if not isinstance(parts, list | tuple):
    raise ValueError(f"segmentation is a {type(segmentation).__name__}")
  if any(isinstance(part, dict) for part in parts):
    mask_ops.check_work(len(parts) * (_PART_WORK + _RLE_WORK * mask_HW.size))
    for part in parts:
      mask_HW |= _decode(part, height, width)
    return mask_HW
  polygons = [_points(part) for part in parts]
  polygons = [polygon for polygon in polygons if len(polygon) >= 3]
  if parts and not polygons:
    raise ValueError("segmentation holds no polygon of three points")
  work = sum(_PART_WORK + _columns(p, width) * height * _COLUMN_WORK for p in polygons)
  mask_ops.check_work(work)
  for polygon in polygons:
    _draw(mask_HW, polygon)
  return mask_HW


def _columns(points_N2, width):
  """At least as many as the columns of pixels that a polygon meets; `_walk` refuses
  what is no number."""
  return float(np.ptp(np.nan_to_num(np.clip(points_N2[:, 0], 0, width)))) + 2


def _draw(mask_HW, points_N2):
  """Adds one polygon in pixels to a mask, as COCO's library draws it, bit for bit.

  Its outline is walked on the finer grid; where it passes from one column of pixels to
  the next, the mask of that column changes from there down. No other column is read.
  """
  height, width = mask_HW.shape
  u_P, v_P = _walk(points_N2)
  left_P = np.where(u_P[1:] < u_P[:-1], u_P[1:], u_P[1:] - 1)
  column_P = (left_P + 0.5) / _SCALE - 0.5
  row_P = (np.minimum(v_P[1:], v_P[:-1]) + 0.5) / _SCALE - 0.5
  row_P = np.ceil(np.clip(row_P, 0, height))
  crosses_P = (u_P[1:] != u_P[:-1]) & (np.floor(column_P) == column_P)
  crosses_P &= (column_P >= 0) & (column_P <= width - 1)
  if not crosses_P.any():
    return
  column_P, row_P = (x[crosses_P].astype(np.int64) for x in (column_P, row_P))
  first, count = column_P.min(), np.ptp(column_P) + 1
  at_P, times_P = np.unique((column_P - first) * height + row_P, return_counts=True)
  change = np.zeros(count * height + 1, np.uint8)
  change[at_P[times_P % 2 == 1]] = 1
  mask_WH = np.bitwise_xor.accumulate(change)[:-1].reshape(count, height)
  mask_HW[:, first : first + count] |= mask_WH.T


def _walk(points_N2):
  """(u, v) of every place of the finer grid along the closed outline, in order."""
  points_N2 = np.asarray(points_N2, np.float64)
  if not np.isfinite(points_N2).all():
    raise ValueError("a coordinate is not finite")
  if np.abs(points_N2).max(initial=0) > mask_ops.MAX_COORDINATE:
    raise ValueError(f"a coordinate is past {mask_ops.MAX_COORDINATE:g} pixels")
  grid_N2 = np.trunc(_SCALE * points_N2 + 0.5).astype(np.int64)
  start_E2, end_E2 = grid_N2, np.roll(grid_N2, -1, axis=0)
  steps_E2 = np.abs(end_E2 - start_E2)
  length_E = steps_E2.max(axis=1)
  if (total := int(length_E.sum() + len(length_E))) > MAX_PLACES:
    raise ValueError(
      f"an outline is {total // _SCALE:,} pixels long, the limit is"
      f" {MAX_PLACES // _SCALE:,}"
    )
  flat_E = steps_E2[:, 0] >= steps_E2[:, 1]
  axis_E = np.where(flat_E, 0, 1)  # the longer one, on which one step is one place
  edge_E = np.arange(len(length_E))
  # Always walked upwards on that axis, so that both directions round alike.
  flip_E = start_E2[edge_E, axis_E] > end_E2[edge_E, axis_E]
  low_E2 = np.where(flip_E[:, None], end_E2, start_E2)
  high_E2 = np.where(flip_E[:, None], start_E2, end_E2)
  across_E = (high_E2 - low_E2)[edge_E, 1 - axis_E]
  slope_E = across_E / np.maximum(length_E, 1)
  return _places(low_E2, slope_E, length_E, flip_E, flat_E)


def _places(low_E2, slope_E, length_E, flip_E, flat_E):
  """`_walk` of edges that are given by their lower end, slope and length."""
  edge_P = np.repeat(np.arange(len(length_E)), length_E + 1)
  first_E = np.cumsum(length_E + 1) - (length_E + 1)
  step_P = np.arange(len(edge_P)) - first_E[edge_P]
  step_P = np.where(flip_E[edge_P], length_E[edge_P] - step_P, step_P)
  low_P2 = low_E2[edge_P]
  axis_P = np.where(flat_E[edge_P], 0, 1)
  place_P = np.arange(len(edge_P))
  along_P = low_P2[place_P, axis_P] + step_P
  across_P = low_P2[place_P, 1 - axis_P] + slope_E[edge_P] * step_P
  across_P = np.trunc(across_P + 0.5).astype(np.int64)
  flat_P = flat_E[edge_P]
  return np.where(flat_P, along_P, across_P), np.where(flat_P, across_P, along_P)


def _decode(rle, height, width):
  if not isinstance(rle, dict):
    raise ValueError("segmentation mixes RLE with something else")
  mask_HW = mask_ops.decode_rle(rle)
  if mask_HW.shape != (height, width):
    found = "x".join(str(n) for n in mask_HW.shape)
    raise ValueError(f"its RLE is of {found}, the photograph of {height}x{width}")
  return mask_HW


def _points(numbers):
  """x, y, x, y, ... -> (N, 2)."""
  if not isinstance(numbers, list | tuple):
    raise ValueError(f"a polygon is a {type(numbers).__name__}, want a list of numbers")
  if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
    raise ValueError("a polygon holds something that is no number")
  if len(numbers) % 2:
    raise ValueError(f"a polygon has {len(numbers)} numbers, want pairs of x and y")
  return np.asarray(numbers, np.float64).reshape(-1, 2)
