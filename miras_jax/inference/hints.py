"""What a user points at, as prompts of SAM's decoder beside the words.

P points of a prompt, H W image rows and columns, S the sides of the canvas.
"""

import reprlib

import numpy as np

from input_pipeline import image_ops, mask_canvas, mask_ops
from miras_jax.errors import UserError
from miras_jax.inference.masks import Mask
from miras_jax.models.sam_prompt import BACKGROUND, FOREGROUND, KNOWN, PADDING

MAX_POINTS = 16
INSIDE, OUTSIDE = KNOWN, -KNOWN  # logits of a mask that is known


def chosen(mask, refers_to, earlier):
  """The mask that a user means: one given, or a number among earlier ones, or None."""
  if refers_to is None:
    return mask
  if mask is not None:
    raise UserError("mask= and refers_to= are both given; want one")
  number = isinstance(refers_to, int | np.integer) and not isinstance(refers_to, bool)
  if not number or not 0 <= refers_to < len(earlier):
    there = f"0 to {len(earlier) - 1}" if earlier else "none yet"
    raise UserError(f"refers_to={_short(refers_to)}: the masks so far are {there}")
  return earlier[refers_to]


def make(points, box, mask, views, data) -> dict | None:
  """Arguments of PromptEncoder with B = M = 1; None where nothing is pointed at.

  Raises UserError for what does not lie in the image.
  """
  size = tuple(map(int, views["original_hw"]))
  hints = {}
  points = () if points is None else points
  try:
    count = len(points)
  except TypeError:
    raise UserError(f"points={_short(points)}: want [(x, y, inside), ...]") from None
  if count:
    hints["points"] = _points(points, size, data.sam_size)
  if box is not None:
    hints["boxes"] = _box(box, size, data.sam_size)
  if mask is not None:
    hints["masks"] = _mask(mask, size, data.sam_size)
  return hints or None


def _points(points, size, canvas):
  if len(points) > MAX_POINTS:
    raise UserError(f"points= has {len(points)} points, the limit is {MAX_POINTS}")
  at_P2 = np.zeros((MAX_POINTS, 2), np.float32)
  label_P = np.full(MAX_POINTS, PADDING, np.int32)
  for k, point in enumerate(points):
    name = f"points={_short(point)}"
    x, y, inside = _numbers(point, 3, name, "(x, y, inside)")
    at_P2[k] = _inside((x, y), size, name)
    if inside not in (0, 1):
      raise UserError(f"{name}: want (x, y, inside), inside True or False")
    label_P[k] = FOREGROUND if inside else BACKGROUND
  at_P2 = image_ops.points_to_canvas(at_P2, size, canvas).astype(np.float32)
  return at_P2[None, None], label_P[None, None]


def _box(box, size, canvas):
  want = "(x0, y0, x1, y1) with x0 < x1 and y0 < y1"
  name = f"box={_short(box)}"
  x0, y0, x1, y1 = box = _numbers(box, 4, name, want)
  if not (x0 < x1 and y0 < y1):
    raise UserError(f"{name}: want {want}")
  for corner in (box[:2], box[2:]):
    _inside(corner, size, name)
  return image_ops.boxes_to_canvas([box], size, canvas).astype(np.float32)[None]


def _numbers(value, count, name, want):
  """So many numbers; UserError for anything else."""
  try:
    numbers = np.asarray(value, np.float64)
  except (TypeError, ValueError, OverflowError):
    numbers = np.zeros(0)
  if numbers.shape != (count,):
    raise UserError(f"{name}: want {want}")
  return numbers


def _short(value):
  return reprlib.repr(value)


def _inside(point, size, name):
  values = np.asarray(point, np.float64)
  height, width = size
  if not (np.isfinite(values).all() and (values >= 0).all() and
          (values <= [width, height]).all()):  # fmt: skip
    raise UserError(f"{name}: outside of the image of {width}x{height} pixels")
  return values


def _of_rle(rle, size):
  stated = rle.get("size")
  is_pair = isinstance(stated, list | tuple) and len(stated) == 2
  if is_pair and list(stated) != list(size):
    stated = _short(tuple(stated))
    raise UserError(f"mask= is {stated}, the image {size} (height, width)")
  try:
    return mask_ops.decode_rle(rle, max_pixels=size[0] * size[1])
  except ValueError as error:
    raise UserError(f"mask=: {error}") from None


def mask_array(mask, size) -> np.ndarray:
  """What a user gives as a mask -> (H, W), bool or whole numbers; UserError."""
  if isinstance(mask, Mask):  # of an answer, perhaps of another conversation
    mask = mask.array
  if isinstance(mask, dict):
    mask = _of_rle(mask, size)
  try:
    mask = np.asarray(mask)
  except ValueError:
    raise UserError("mask= has rows of several lengths: want bool (H, W)") from None
  if mask.dtype.kind not in "bui":  # what of a probability is inside, who asks knows
    raise UserError(f"mask= is {mask.dtype}, want bool: of scores, `scores > 0.5`")
  if mask.shape != size:
    raise UserError(f"mask= is {mask.shape}, the image {size} (height, width)")
  if not mask.any():
    raise UserError("mask= has no pixel")
  if mask.dtype.kind == "i" and mask.min() < 0:
    raise UserError("mask= has values below 0: want bool, or 0 outside and 1 inside")
  return mask


def _mask(mask, size, canvas):
  mask = mask_array(mask, size)
  mask_SS = mask_canvas.mask_to_canvas(mask, canvas)
  return np.where(mask_SS > 0, INSIDE, OUTSIDE).astype(np.float32)[None, None]
