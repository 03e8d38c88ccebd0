"""Masks of one photograph: drawn within bounded work, at the size that it is shown.

Letters: H W size of the photograph, N points.
"""

import dataclasses
import functools

import cv2
import numpy as np

from input_pipeline import image_ops, mask_ops
from input_pipeline.annotations.photo import Region
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError

MAX_WORK = 2e10  # of a photograph in units of `mask_ops.raster_work`: ten seconds
MAX_REGIONS = 20_000
MAX_LEVELS = 16  # of parts of parts
_PIXEL_WORK = 2  # a pixel of a mask, to encode it
_SMALL_SIDE = 8  # of a picture in which things may well lie within one pixel
_SNAP = 0.05  # pixels; what is lost where pixels are written as fractions


def read_photograph(src: SourceFolder, name: str) -> tuple[bytes, int, int]:
  """(encoded bytes, height, width as shown), decoded once as proof that it can be.

  Raises RecordError that names the photograph.
  """
  try:
    data = src.read(name)
    return data, *decode(data).shape[:2]
  except FileNotFoundError:
    raise RecordError(name, WHOLE_FILE, "no such file") from None
  except (ValueError, image_ops.ImageError) as error:
    raise RecordError(name, WHOLE_FILE, str(error)) from None


@functools.lru_cache(maxsize=1)
def decode(data: bytes):
  """`image_ops.decode_image`; of the photograph at hand only once."""
  image_HWC = image_ops.decode_image(data)
  image_HWC.flags.writeable = False
  return image_HWC


def check_size(stated, height, width):
  """ValueError where labels are for a photograph of another (height, width)."""
  if tuple(stated) != (height, width):
    raise ValueError(
      f"is for an image of {stated[1]}x{stated[0]} pixels, the image has"
      f" {width}x{height}"
    )


def check_pixels(coordinates, height, width):
  """ValueError where all coordinates of a photograph's labels lie in 0..1."""
  if not len(coordinates) or max(height, width) <= _SMALL_SIDE:
    return
  if coordinates.min() >= 0 and coordinates.max() <= 1:
    raise ValueError(
      "all coordinates lie between 0 and 1: they are normalised, want pixels"
    )


def to_pixels(fractions_N2, height, width):
  """Coordinates in 0..1 -> pixels. Whole ones become whole again, since the raster
  rule truncates and 0.3333 * 9 is a little less than 3."""
  pixels_N2 = np.asarray(fractions_N2, np.float64).reshape(-1, 2) * [width, height]
  near_N2 = np.rint(pixels_N2)
  return np.where(np.abs(pixels_N2 - near_N2) <= _SNAP, near_N2, pixels_N2)


def points_of(numbers) -> np.ndarray:
  """A flat list x, y, x, y -> (N, 2). Raises ValueError for what are no numbers."""
  if not isinstance(numbers, list) or len(numbers) % 2:
    raise ValueError("holds no list of x, y pairs")
  for number in numbers:
    if isinstance(number, bool) or not isinstance(number, int | float):
      raise ValueError(f"holds {str(number)[:40]!r} among its coordinates")
    if not abs(number) <= mask_ops.MAX_COORDINATE:  # of nan, too
      raise ValueError(f"holds the coordinate {str(number)[:40]}")
  return np.array(numbers, np.float64).reshape(-1, 2)


class Canvas:
  """Draws the regions of one photograph; ValueError where that would take too long."""

  def __init__(self, height: int, width: int):
    self.height, self.width = height, width
    self.regions: list[Region] = []
    self._work = 0.0

  def spend(self, steps: float):
    self._work += steps
    if self._work > MAX_WORK:
      raise ValueError(
        f"its masks would take too long to draw: more than {MAX_WORK:.0e} steps"
      )

  def polygons(self, polygons):
    """Union of polygons in pixels -> mask_HW uint8."""
    self.spend(mask_ops.raster_work(polygons, self.height, self.width))
    return mask_ops.rasterise_polygons(polygons, self.height, self.width)

  def rings(self, rings):
    """One shape of several rings, even-odd -> mask_HW uint8."""
    joint_N2 = np.concatenate(rings)
    work = mask_ops.raster_work([joint_N2], self.height, self.width)
    mask_ops.check_work(work)
    self.spend(work)
    mask_HW = np.zeros((self.height, self.width), np.uint8)
    cv2.fillPoly(mask_HW, [np.trunc(ring).astype(np.int32) for ring in rings], 1)
    return mask_HW

  def add(self, name: str, mask_HW, *, crowd: bool = False) -> bool:
    """Appends a region; False: the mask is empty and none is appended."""
    self.spend(_PIXEL_WORK * self.height * self.width)
    if len(self.regions) >= MAX_REGIONS:
      raise ValueError(f"has more than {MAX_REGIONS:,} labelled things")
    rle = mask_ops.encode_rle(mask_HW)
    if not mask_ops.rle_area(rle, max_pixels=self.height * self.width):
      return False
    self.regions.append(Region(name, rle, crowd=crowd))
    return True

  def join(self, part: int, whole: int):
    """Says of a region that it is a part of another one. ValueError where a thing would
    be a part of itself, or the whole is MAX_LEVELS deep in other things."""
    number = whole
    for _ in range(MAX_LEVELS):
      if number == part:
        raise ValueError(f"{self.regions[part].name!r} would be a part of itself")
      above = self.regions[number].part_of
      if above is None:
        region = dataclasses.replace(self.regions[part], part_of=whole)
        self.regions[part] = region
        return
      number = above
    raise ValueError(f"{self.regions[part].name!r} has more than {MAX_LEVELS} wholes")
