"""What a mask tells by itself: how large it is, where it lies, what colours it has."""

from typing import NamedTuple

import cv2
import numpy as np

_TINY = 4  # pixels of a mask whose coordinates went from 0 to 1
_CORNER = 2  # side of the corner that such a mask lies in
_CLEARLY = 0.1  # of the width, between the middle and a mask that is on the other side
LEAST_PIXELS = 200  # of a mask whose colours are judged
_NONE, _MOST = 0.03, 0.8  # shares of the pixels that agree and that refute
_GREY_PICTURE = 12  # saturation below which (95 %) a picture has no colours


class Extent(NamedTuple):
  """Where a mask lies, in shares of the width: left end, centroid, right end."""

  first: float
  centre: float
  last: float


def extent(mask_HW) -> Extent | None:
  """None for an empty mask."""
  columns_W = np.asarray(mask_HW).sum(axis=0, dtype=np.int64)
  (inside,) = np.nonzero(columns_W)
  if not len(inside):
    return None
  width = len(columns_W)
  centre = (columns_W @ (np.arange(width) + 0.5)) / columns_W.sum()
  return Extent(inside[0] / width, float(centre) / width, (inside[-1] + 1) / width)


def is_unit_coordinates(mask_HW) -> bool:
  """Whether a mask is what coordinates from 0 to 1 become when taken for pixels.

  Only in a picture where so few pixels cannot be a thing.
  """
  mask_HW = np.asarray(mask_HW)
  if min(mask_HW.shape) <= 4 * _CORNER or not 0 < np.count_nonzero(mask_HW) <= _TINY:
    return False
  return np.count_nonzero(mask_HW[:_CORNER, :_CORNER]) == np.count_nonzero(mask_HW)


def is_on_other_side(side: str, where: Extent) -> bool:
  """Whether the whole of a mask lies clearly on the side that is not named."""
  if side == "left":
    return where.first > 0.5 and where.centre > 0.5 + _CLEARLY
  return where.last < 0.5 and where.centre < 0.5 - _CLEARLY


def is_exchanged(left: Extent, right: Extent) -> bool:
  """Whether the mask that is named left lies clearly right of its sibling."""
  return left.first > right.first and left.centre > right.centre + _CLEARLY / 2


# Colours that light and taste make of a named one, so that they do not refute it.
_NEIGHBOURS = {
  "red": ("orange", "pink", "brown", "purple"),
  "orange": ("red", "yellow", "brown", "pink"),
  "yellow": ("orange", "brown", "green"),
  "green": ("yellow", "cyan"),
  "blue": ("cyan", "purple"),
  "purple": ("pink", "blue", "red"),
  "pink": ("red", "purple", "orange"),
  "brown": ("orange", "red", "yellow", "pink"),
}
# Hue in degrees below which a pixel has the colour.
_HUES = (
  (14, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (200, "cyan"),
  (258, "blue"), (300, "purple"), (344, "pink"), (361, "red"),
)  # fmt: skip


class Judgement(NamedTuple):
  """Of the pixels that tell a colour: shares that agree and that refute."""

  agree: float
  refute: float
  seen: str  # the commonest colour


def judge_colour(colour: str, image_HWC, mask_HW) -> Judgement | None:
  """How the pixels of a mask fit a named colour; None where they cannot tell.

  Grey pixels, shadows and highlights neither agree with a hue nor refute it, a picture
  without colours refutes none.
  """
  hsv_N3 = cv2.cvtColor(
    np.ascontiguousarray(image_HWC[np.asarray(mask_HW) != 0][:, None]),
    cv2.COLOR_RGB2HSV_FULL,
  ).reshape(-1, 3)
  if len(hsv_N3) < LEAST_PIXELS:
    return None
  hue_N = hsv_N3[:, 0] * (360 / 256)
  saturation_N, value_N = hsv_N3[:, 1] / 255, hsv_N3[:, 2] / 255
  names = np.array([name for _, name in _HUES])
  name_N = names[np.digitize(hue_N, [end for end, _ in _HUES])]
  vivid_N = (saturation_N > 0.35) & (value_N > 0.3)
  if colour in ("black", "white"):
    return _judge_grey(colour, saturation_N, value_N, vivid_N, name_N)
  if _has_no_colours(image_HWC):
    return None
  near_N = np.isin(name_N, [colour, *_NEIGHBOURS[colour]])
  agree = np.mean(near_N & (saturation_N > 0.15) & (value_N > 0.1))
  return Judgement(
    float(agree), float(np.mean(vivid_N & ~near_N)), _mode(name_N, vivid_N)
  )


def _judge_grey(colour, saturation_N, value_N, vivid_N, name_N):
  if colour == "black":
    agree, refute = value_N < 0.4, value_N > 0.55
    seen = _mode(name_N, vivid_N) if vivid_N.mean() > 0.5 else "bright"
  else:
    agree = (saturation_N < 0.3) & (value_N > 0.4)
    refute = (vivid_N & (saturation_N > 0.5)) | (value_N < 0.2)
    seen = _mode(name_N, vivid_N) if vivid_N.mean() > 0.5 else "dark"
  return Judgement(float(agree.mean()), float(refute.mean()), seen)


def _mode(name_N, where_N):
  names, counts = np.unique(name_N[where_N], return_counts=True)
  return str(names[np.argmax(counts)]) if len(names) else "grey"


def _has_no_colours(image_HWC):
  small = np.ascontiguousarray(image_HWC[::8, ::8])
  saturation = cv2.cvtColor(small, cv2.COLOR_RGB2HSV_FULL)[..., 1]
  return np.percentile(saturation, 95) < _GREY_PICTURE


def contradicts(judgement: Judgement | None) -> bool:
  """Whether hardly a pixel agrees with a named colour and most refute it."""
  return (
    judgement is not None and judgement.agree <= _NONE and judgement.refute >= _MOST
  )
