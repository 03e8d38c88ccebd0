"""What `metrics.Targets` keeps of a pair of masks, worked out in the box around them.

Outside of that box both masks are empty, so every count is that of the whole image; the
boundary band and the Canny edges are told where the image ends. H W the image, h w a
box of it.
"""

import concurrent.futures
from typing import NamedTuple

import cv2
import numpy as np

from input_pipeline import mask_ops
from miras_jax.evaluation import canny

BAND = 0.02  # width of the boundary band over the image diagonal, as published
_SQUARE = np.ones((3, 3), np.uint8)
_PREDICTED, _TRUE = 1.0, 1 / 255  # a bool and a uint8 mask in Canny's eyes


class Boxed(NamedTuple):
  """mask: uint8 of 0 or 1, the box of it at `corner` (row, column) that is not empty;
  size: (H, W) of all of it."""

  mask: np.ndarray
  corner: tuple[int, int]
  size: tuple[int, int]


def of_array(mask_HW) -> Boxed:
  """A mask of any type, not 0 where it is set, as Boxed."""
  mask_HW = np.ascontiguousarray(mask_HW, dtype=bool).view(np.uint8)
  left, top, width, height = cv2.boundingRect(mask_HW)
  box = mask_HW[top : top + height, left : left + width]
  return Boxed(box, (top, left), mask_HW.shape)


def of_rle(rle, like=None) -> Boxed:
  """A COCO RLE as Boxed; None is an empty mask of the size of RLE `like`."""
  if rle is None:
    return Boxed(np.zeros((0, 0), np.uint8), (0, 0), tuple(map(int, like["size"])))
  corner, box = mask_ops.decode_rle_box(rle)
  return Boxed(box, corner, tuple(map(int, rle["size"])))


def scores(pred: Boxed, true: Boxed, *, edges=False) -> dict:
  """{"inter", "pred", "true", "biou"} and, with `edges`, "biou_canny".

  Equal to the last bit to the functions of `metrics` on the whole masks, the target
  taken as boolean for the counts and as uint8 for Canny. ValueError: sizes differ.
  """
  found = areas(pred, true)
  found["biou"] = _boundary_iou(pred, true)
  if edges:
    found["biou_canny"] = _edge_overlap(pred, true)
  return found


def areas(pred: Boxed, true: Boxed) -> dict:
  """{"inter", "pred", "true"} in pixels. ValueError where the sizes differ."""
  if pred.size != true.size:
    raise ValueError(f"prediction {pred.size}, target {true.size}: sizes differ")
  return {"inter": _common(pred, true), "pred": _area(pred), "true": _area(true)}


def _area(boxed):
  return cv2.countNonZero(boxed.mask) if boxed.mask.size else 0


def scores_of_all(pairs, *, edges=False, workers=1) -> list[dict]:
  """`scores` of (prediction, target) RLEs, in their order, by so many threads.

  pairs: any iterable; what is read ahead of the threads is bounded.
  """

  def work(pair):
    return scores(of_rle(*pair), of_rle(pair[1]), edges=edges)

  if workers == 1:
    return [work(pair) for pair in pairs]
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    return list(pool.map(work, pairs))


def _common(one: Boxed, other: Boxed) -> int:
  """Pixels that are set in both."""
  top, left = (max(pair) for pair in zip(one.corner, other.corner, strict=True))
  ends = [
    [at + size for at, size in zip(x.corner, x.mask.shape, strict=True)]
    for x in (one, other)
  ]
  bottom, right = (min(pair) for pair in zip(*ends, strict=True))
  if bottom <= top or right <= left:
    return 0
  parts = [
    x.mask[
      top - x.corner[0] : bottom - x.corner[0], left - x.corner[1] : right - x.corner[1]
    ]
    for x in (one, other)
  ]
  return cv2.countNonZero(cv2.bitwise_and(*parts))


def band_steps(image_hw, band=BAND) -> int:
  """How many pixels wide the boundary band of an image is."""
  return max(1, round(band * float(np.hypot(*image_hw))))


def _boundary_iou(pred, true):
  bands = [_band(x) for x in (pred, true)]
  inter = _common(*bands)
  union = sum(map(_area, bands)) - inter
  return inter / union if union else 1.0


def _band(boxed):
  """The pixels within `band_steps` of the outline, the image's border counting as one:
  a ring of zeros around the box is both."""
  mask = boxed.mask
  if not mask.size:
    return boxed
  padded = np.pad(mask, 1)
  inner = cv2.erode(padded, _SQUARE, iterations=band_steps(boxed.size))
  return boxed._replace(mask=mask - inner[1:-1, 1:-1])


def _edge_overlap(pred, true):
  places = [
    canny.edge_places(x.mask, x.corner, x.size, scale)
    for x, scale in ((pred, _PREDICTED), (true, _TRUE))
  ]
  inter = len(np.intersect1d(*places, assume_unique=True))
  return inter / (sum(map(len, places)) - inter + 1e-5)
