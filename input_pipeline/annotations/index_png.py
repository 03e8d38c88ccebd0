"""Class maps: a PNG for each photograph whose values are numbers of classes.

    images/a.jpg + masks/a.png      in folders of any of the names of `layout`
    a.jpg + a_mask.png              as Roboflow exports them, with _classes.csv
    labels.json, classes.txt, ...   the names, or --names=FILE

Grey of 1 to 16 bits or a palette, whose colours mean nothing. 255 is "ignore" where no
class has that number; a number whose name says "background" (`names.NOT_A_THING`) is
no thing, nor is 0 where the list begins at 1. Pieces of a class map are no instances:
two persons side by side are one piece, one person behind a pole is two.
"""

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from input_pipeline import image_ops, mask_ops
from input_pipeline.annotations import canvas, layout, names
from input_pipeline.annotations.photo import Form, LabelledPhoto
from input_pipeline.builders.builder import Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError
from miras_jax.errors import UserError

IGNORE = 255
_BAND = 512  # rows of a colour picture that are compared at a time


class IndexPng(Form):
  name = "index_png"

  def __init__(self, class_names: dict[int, str] | None = None):
    self._names = class_names

  def found(self, src: SourceFolder) -> str | None:
    masks = layout.masks(src)
    shown = {rest for _, rest in map(layout.place, layout.photographs(src))}
    paired = sum(layout.place(name)[1] in shown for name in masks)
    # A few belong to a photograph by chance where each class has a mask: 1_2.png.
    return f"{paired:,} index PNGs" if 2 * paired > len(masks) else None

  def units(self, src: SourceFolder) -> Iterator[Unit | RecordError]:
    self._listed(src)
    masks = layout.by_place(layout.masks(src))
    used = set()
    for image in layout.photographs(src):
      mask = layout.belonging(masks, image)
      if mask is None:
        yield RecordError(image, WHOLE_FILE, "no mask belongs to it")
        continue
      used.add(mask)
      split = layout.split_of(image)
      yield {"image": image, "mask": mask} | ({"split": split} if split else {})
    for mask in masks.values():
      if mask not in used:
        yield RecordError(mask, WHOLE_FILE, "no photograph belongs to it")

  def read(self, src: SourceFolder, unit: Unit) -> LabelledPhoto:
    listed = self._listed(src)
    data, height, width = canvas.read_photograph(src, unit["image"])
    index_HW = read_mask(src, unit["mask"], height, width)
    drawing = canvas.Canvas(height, width)
    try:
      for value in np.unique(index_HW):
        name = _name(int(value), listed)
        if names.is_thing(name):
          drawing.add(name, index_HW == value)
    except ValueError as error:
      raise RecordError(unit["mask"], WHOLE_FILE, str(error)) from None
    return LabelledPhoto(
      image=data,
      image_id=unit["image"],
      height=height,
      width=width,
      regions=tuple(drawing.regions),
      instances=False,
      complete=frozenset(filter(names.is_thing, listed.values())),
    )

  def _listed(self, src):
    if self._names is None:
      self._names = names.in_folder(src)
    if self._names is None:
      raise UserError(
        f"--src={src.root}: index PNGs hold numbers and no names; want one of"
        f" {', '.join(names.FILES)} there, or --names=FILE"
      )
    return self._names


def _name(value, listed):
  """The name of a value, "" for one that is no thing. Raises ValueError."""
  if value in listed:
    return listed[value]
  if value == IGNORE or value == 0:
    return ""
  raise ValueError(
    f"holds the value {value}, which has no name: the list ends at {max(listed)}"
    + (
      "; does it lack the name of 0, background?"
      if value == max(listed) + 1 and names.is_thing(listed.get(0, ""))
      else ""
    )
  )


def read_mask(src: SourceFolder, name: str, height: int, width: int):
  """A one-channel PNG of the photograph's size -> values_HW. RecordError names it."""
  try:
    data = src.read(name)
    if data[:8] != b"\x89PNG\r\n\x1a\n":
      raise ValueError("is no PNG; other formats change the values of a mask")
    # Of the file's header: a mask is laid over the photograph as it is shown.
    canvas.check_size(_stored_size(data), height, width)
    return _values(data)
  except FileNotFoundError:
    raise RecordError(name, WHOLE_FILE, "no such file") from None
  except (ValueError, image_ops.ImageError) as error:
    raise RecordError(name, WHOLE_FILE, str(error)) from None


def _stored_size(data):
  width, height = struct.unpack(">II", data[16:24].ljust(8, b"\0"))
  if not 0 < height * width <= mask_ops.MAX_MASK_PIXELS:
    limit = f"{mask_ops.MAX_MASK_PIXELS:,}"
    raise ValueError(f"mask of {width}x{height} pixels, the limit is {limit} pixels")
  return height, width


def _values(data):
  """Values of a PNG: palette numbers, not colours; grey of few bits not stretched."""
  depth, colour_type = data[24], data[25]
  try:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
      image.load()
      values = np.asarray(image)
  except (OSError, ValueError, SyntaxError, struct.error, MemoryError, TypeError) as e:
    raise ValueError(f"damaged or truncated PNG: {e}") from None
  if values.ndim == 3:
    return _equal_channel(values, image.mode)
  if colour_type == 0 and depth in (2, 4):
    return values // (255 // (2**depth - 1))  # Pillow spreads them over 0..255
  return values.astype(np.uint8) if values.dtype == bool else values


def _equal_channel(values_HWC, mode):
  """The values of a grey mask that was stored in colour."""
  grey_HW = values_HWC[..., 0]
  colours = values_HWC[..., :3] if values_HWC.shape[2] >= 3 else values_HWC[..., :1]
  for start in range(0, len(grey_HW), _BAND):
    rows = slice(start, start + _BAND)
    if (colours[rows] != grey_HW[rows, :, None]).any():
      raise ValueError(
        f"is a picture in colour ({mode}), want numbers of classes (grey or palette)"
      )
  return np.ascontiguousarray(grey_HW)
