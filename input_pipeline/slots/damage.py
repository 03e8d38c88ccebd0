"""Masks as a model might have got them wrong: for training on errors.

H W rows and columns; masks are uint8 0/1.
"""

import cv2
import numpy as np

KINDS = ("erode", "dilate", "shift", "drop", "box")
REACH = 0.25  # most that a border moves, times the root of the area
FAR = 0.5  # most that a mask moves, the same


def damaged(mask_HW, chance) -> np.ndarray:
  """The mask with a border eroded or dilated, shifted, without its largest or another
  component, or as its box. chance: numbers by name (`augment.Chance`)."""
  if not mask_HW.any():
    return mask_HW
  kind = KINDS[int(chance("kind", 0, len(KINDS)))]
  reach = mask_HW.sum() ** 0.5 * chance("reach") * REACH
  if kind == "shift":
    return _shifted(mask_HW, chance)
  if kind == "drop":
    return _without_component(mask_HW, chance)
  if kind == "box":
    return _box(mask_HW)
  side = 1 + 2 * max(1, round(reach))
  disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
  return (cv2.erode if kind == "erode" else cv2.dilate)(mask_HW, disc)


def _shifted(mask_HW, chance):
  reach = mask_HW.sum() ** 0.5 * FAR
  rows, columns = (round(chance(axis, -reach, reach)) for axis in "yx")
  matrix = np.float32([[1, 0, columns], [0, 1, rows]])
  return cv2.warpAffine(mask_HW, matrix, mask_HW.shape[::-1], flags=cv2.INTER_NEAREST)


def _without_component(mask_HW, chance):
  """Without one of its components; of a single one, without a half."""
  count, label_HW = cv2.connectedComponents(mask_HW)
  if count > 2:
    gone = 1 + int(chance("component", 0, count - 1))
    return np.where(label_HW == gone, 0, mask_HW).astype(np.uint8)
  out_HW = mask_HW.copy()
  rows, columns = np.nonzero(mask_HW)
  if chance("half") < 0.5:
    out_HW[: int(rows.mean())] = 0
  else:
    out_HW[:, : int(columns.mean())] = 0
  return out_HW


def _box(mask_HW):
  rows, columns = np.nonzero(mask_HW)
  out_HW = np.zeros_like(mask_HW)
  out_HW[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
  return out_HW
