"""Masks of every kind that a test of mask metrics should see."""

import cv2
import numpy as np

KINDS = (
  "noise",
  "circles",
  "rectangles",
  "polygons",
  "lines",
  "blobs",
  "empty",
  "full",
)


def random_mask(rng, height, width, kind=None) -> np.ndarray:
  """mask_HW uint8 of 0 or 1; shapes may reach past the border."""
  kind = kind or KINDS[rng.integers(len(KINDS))]
  mask_HW = np.zeros((height, width), np.uint8)
  if kind == "noise":
    return (rng.random((height, width)) < rng.random()).astype(np.uint8)
  if kind == "full":
    return mask_HW + 1
  if kind == "blobs":
    coarse = rng.standard_normal((height // 8 + 1, width // 8 + 1)).astype(np.float32)
    return (cv2.resize(coarse, (width, height)) > 0).astype(np.uint8)
  for _ in range(0 if kind == "empty" else rng.integers(1, 5)):
    points = rng.integers(-5, max(height, width) + 5, (7, 2)).astype(np.int32)
    one, other = (tuple(map(int, point)) for point in points[:2])
    if kind == "circles":
      cv2.circle(mask_HW, one, int(rng.integers(0, max(height, width))), 1, -1)
    elif kind == "rectangles":
      cv2.rectangle(mask_HW, one, other, 1, -1)
    elif kind == "lines":
      cv2.line(mask_HW, one, other, 1, 1)
    else:
      cv2.fillPoly(mask_HW, [points], 1)
  return mask_HW
