"""The labelled things of a photograph, and what can be measured of them.

Masks are looked at on every k-th row and column of a large photograph, which is enough
for position, size and colour. h w rows and columns of the box around a thing.
"""

import dataclasses
import functools
from collections.abc import Sequence

import cv2
import numpy as np

from input_pipeline import mask_ops
from input_pipeline.annotations.photo import LabelledPhoto, Region
from input_pipeline.narrate import colours

LOOK_SIDE = 640  # pixels of the longer side that are looked at


@dataclasses.dataclass(frozen=True, eq=False)
class Thing:
  """A region that has pixels. x, y and sides are shares of the photograph's sides.

  number: its place in `photo.regions`. area: share of the photograph. box: x0, y0, x1,
  y1. mask_hw: the mask inside the box, on what is looked at; corner: row and column of
  the box there. pixels: its colours, RGB. spoken: its label can stand in a text.
  """

  number: int
  region: Region
  area: float
  x: float
  y: float
  box: tuple[float, float, float, float]
  mask_hw: np.ndarray
  corner: tuple[int, int]
  pixels: np.ndarray
  spoken: bool

  @property
  def name(self):
    return self.region.name

  @functools.cached_property
  def colours(self):
    return colours.verdicts(self.pixels)


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
  """All things of a photograph, the small ones too. look_hw: size looked at."""

  photo: LabelledPhoto
  things: tuple[Thing, ...]
  look_hw: tuple[int, int]
  min_area: float

  @functools.cached_property
  def targets(self):
    """Things that a mask may be asked of: large enough, told apart, with a name."""
    return tuple(t for t in self.things if self.is_target(t))

  def is_target(self, thing):
    return thing.spoken and not thing.region.crowd and thing.area >= self.min_area

  def named(self, name):
    return tuple(t for t in self.things if t.name == name)

  @functools.cached_property
  def singles(self):
    """Targets that are alone with their name and are no part of another: "the hat"."""
    return tuple(
      t
      for t in self.targets
      if len(self.named(t.name)) == 1 and t.region.part_of is None
    )

  def parts_of(self, thing):
    return tuple(t for t in self.things if t.region.part_of == thing.number)


def make_scene(photo: LabelledPhoto, image_HWC, wordings, min_area: float) -> Scene:
  """Measures every region. Raises ValueError for a mask of another size."""
  step = -(-max(image_HWC.shape[:2]) // LOOK_SIDE)
  look_HWC = image_HWC[::step, ::step]
  things = []
  for number, region in enumerate(photo.regions):
    mask_HW = mask_ops.decode_rle(region.rle)
    if mask_HW.shape != image_HWC.shape[:2]:
      raise ValueError(
        f"the mask of {region.name!r} is {mask_HW.shape}, the photograph"
        f" {image_HWC.shape[:2]}"
      )
    spoken = wordings.can_name(region.name)
    thing = _measure(number, region, mask_HW, step, look_HWC, spoken)
    things += [thing] if thing else []
  return Scene(photo, tuple(things), look_HWC.shape[:2], min_area)


def _measure(number, region, mask_HW, step, look_HWC, spoken):
  """Thing of a mask, None where no pixel of it is looked at."""
  look_HW = mask_HW[::step, ::step]
  rows, columns = np.flatnonzero(look_HW.any(1)), np.flatnonzero(look_HW.any(0))
  if not len(rows):
    return None
  height, width = look_HW.shape
  top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
  mask_hw = look_HW[top:bottom, left:right].astype(bool)
  y_N, x_N = np.nonzero(mask_hw)
  return Thing(
    number=number,
    region=region,
    area=mask_ops.rle_area(region.rle) / mask_HW.size,
    x=float((x_N.mean() + left + 0.5) / width),
    y=float((y_N.mean() + top + 0.5) / height),
    box=(left / width, top / height, right / width, bottom / height),
    mask_hw=mask_hw,
    corner=(int(top), int(left)),
    pixels=look_HWC[top:bottom, left:right][mask_hw],
    spoken=spoken,
  )


def share_before(thing: Thing, axis: int, place: float, look_hw: Sequence[int]):
  """Share of a thing's pixels whose y (axis 0) or x (axis 1) is less than `place`."""
  count_n = thing.mask_hw.sum(axis=1 - axis)
  at_n = (np.arange(len(count_n)) + thing.corner[axis] + 0.5) / look_hw[axis]
  return float(count_n[at_n < place].sum() / count_n.sum())


def gap(a: Thing, b: Thing, most: int) -> int:
  """Pixels between two things, on what is looked at; `most` where there are more."""
  spans = [(t.corner, np.add(t.corner, t.mask_hw.shape)) for t in (a, b)]
  (a_from, a_to), (b_from, b_to) = spans
  if np.maximum(np.subtract(b_from, a_to), np.subtract(a_from, b_to)).max() >= most:
    return most  # so far are their boxes apart
  edge = most + 1
  outside_hw = (~np.pad(a.mask_hw, edge)).astype(np.uint8)
  far_hw = cv2.distanceTransform(outside_hw, cv2.DIST_L2, 5)
  # Where the box of b begins on that padded map, and the part of it that is on the map.
  row, column = (int(q - p) + edge for p, q in zip(a.corner, b.corner, strict=True))
  near_hw = far_hw[max(row, 0) :, max(column, 0) :]
  mask_hw = b.mask_hw[max(-row, 0) :, max(-column, 0) :]
  height, width = np.minimum(near_hw.shape, mask_hw.shape)
  far_N = near_hw[:height, :width][mask_hw[:height, :width]]
  return min(max(int(far_N.min()) - 1, 0), most) if len(far_N) else most


def pieces(rle, min_area: float):
  """The two pieces that a mask falls into, {"left": rle, "right": rle} or
  {"top": ..., "bottom": ...}; {} where it is not two clearly separate ones, or where
  both lie in one half of the picture, so that the side could be taken for that."""
  mask_HW = mask_ops.decode_rle(rle)
  _, label_HW, stats, centres = cv2.connectedComponentsWithStats(mask_HW)
  areas = stats[1:, cv2.CC_STAT_AREA]
  large = np.flatnonzero(areas >= 0.02 * areas.sum()) + 1
  if len(large) != 2 or areas[large - 1].min() < min_area * mask_HW.size:
    return {}
  for axis, sides in ((0, ("left", "right")), (1, ("top", "bottom"))):
    first, second = sorted(large, key=lambda k: centres[k][axis])
    start, length = stats[:, axis], stats[:, axis + 2]
    middle = mask_HW.shape[1 - axis] / 2
    if not start[first] < middle < start[second] + length[second]:
      continue
    if start[first] + length[first] <= start[second]:  # their boxes do not overlap
      masks = (label_HW == first, label_HW == second)
      return dict(zip(sides, map(mask_ops.encode_rle, masks), strict=True))
  return {}
