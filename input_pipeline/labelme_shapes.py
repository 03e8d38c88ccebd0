"""One labelme shape: checked when it is read, drawn on a mask as labelme draws it.

    polygon, rectangle, oriented_rectangle, circle   filled, by the rule of `mask_ops`
    line, linestrip                                  10 pixels wide
    point                                            a disc of radius 5
    mask                                             a PNG laid on its box
    points                                           prompts of a tool: nothing

labelme has no holes: shapes add up. Letters: H W mask size, N points.
"""

import base64
import binascii
import dataclasses
import functools
import math
import unicodedata

import numpy as np
from PIL import Image, ImageDraw

from input_pipeline import image_headers, image_ops, mask_ops

_FILLED = ("polygon", "rectangle", "oriented_rectangle", "circle")
_LINES = ("line", "linestrip")
KINDS = (*_FILLED, *_LINES, "point", "points", "mask")
# Numbers of points; of the other kinds any number counts.
_COUNTS = {"oriented_rectangle": 4, "circle": 2, "line": 2, "point": 1, "mask": 2}
_LINE_WIDTH, _POINT_RADIUS = 10, 5
_REACH = _LINE_WIDTH + 2  # pixels that are drawn around a point, at most
_BOX_TOLERANCE = 2  # pixels: corners may be fractions, a PNG may end at the border
_PNG_WORK = 50_000, 20  # a file and a pixel, in units of `mask_ops.raster_work`
_SEGMENT_WORK = 200
_SMALL_SIDE = 8  # of a picture whose shapes may lie within one pixel


@dataclasses.dataclass(frozen=True)
class Shape:
  """One labelled shape. `defect` says why it is unusable, `degenerate` why it is
  dropped; both are "" for a good one. `group`: shapes of one label and group are one
  thing. `png`: of a mask."""

  index: int
  label: str
  kind: str
  points: np.ndarray
  defect: str = ""
  degenerate: str = ""
  group: int | None = None
  png: bytes = dataclasses.field(default=b"", repr=False)

  @property
  def name(self):
    return f"shape {self.index} ({short(self.label)})"

  @functools.cached_property
  def key(self):
    """The label as it is compared with a focus."""
    return normal(self.label)


def normal(label):
  return unicodedata.normalize("NFC", label).casefold().strip()


def short(value):
  """`value` for an error message, of bounded length. Never prints a huge number."""
  if isinstance(value, int) and abs(value) > 10**18:
    return "an enormous number"
  text = repr(value) if not isinstance(value, list | dict) else type(value).__name__
  return text if len(text) <= 60 else text[:57] + "..."


def parse_shape(index, label, raw):
  """A shape of a labelme document (parsed JSON) -> Shape, whatever is wrong with it."""
  kind = raw.get("shape_type") or "polygon"
  group = raw.get("group_id")
  shape = Shape(
    index=index,
    label=label,
    kind=kind if kind in KINDS else "polygon",
    points=np.zeros((0, 2)),
    group=group if isinstance(group, int) and not isinstance(group, bool) else None,
  )
  if kind == "points":
    reason = "points are prompts of a tool and cover nothing"
    return dataclasses.replace(shape, degenerate=reason)
  try:
    if kind not in KINDS:
      raise ValueError(f"shape_type {short(kind)} is not one of {', '.join(KINDS)}")
    shape = dataclasses.replace(shape, points=_parse_points(raw.get("points")))
    _check_count(shape)
    if kind == "mask" and len(shape.points):
      shape = dataclasses.replace(shape, png=_parse_mask(raw.get("mask"), shape.points))
  except ValueError as e:
    return dataclasses.replace(shape, defect=str(e))
  return dataclasses.replace(shape, degenerate=_degenerate(shape))


def shape_mask(shape, height, width):
  """One shape alone -> mask_HW uint8 of 0 or 1; nothing set where it is degenerate.

  Raises ValueError where it is defective or would take too long to draw.
  """
  mask_HW = np.zeros((height, width), np.uint8)
  if shape.defect:
    raise ValueError(f"{shape.name}: {shape.defect}")
  if not shape.degenerate:
    mask_ops.check_work(work(shape, height, width))
    draw(mask_HW, shape)
  return mask_HW


def draw(mask_HW, shape):
  """Sets the pixels of a good shape; raises ValueError where its PNG is damaged."""
  if shape.kind in _FILLED:
    mask_ops.draw(mask_HW, mask_ops.outline(shape.kind, shape.points), 1)
  elif shape.kind == "mask":
    _paste(mask_HW, shape)
  else:
    _stroke(mask_HW, shape)


def work(shape, height, width) -> float:
  """About how many steps `draw` takes, in units of `mask_ops.raster_work`."""
  if shape.kind in _FILLED:
    outline = mask_ops.outline(shape.kind, shape.points)
    return mask_ops.raster_work([outline], height, width)
  if shape.kind == "mask":
    return _PNG_WORK[0] + _PNG_WORK[1] * math.prod(image_ops.image_size(shape.png))
  inside_N2 = np.clip(shape.points, 0, [width, height])
  box = np.ptp(inside_N2, axis=0) + 2 * _REACH
  length = np.abs(np.diff(inside_N2, axis=0)).max(axis=1, initial=0).sum()
  segments = _SEGMENT_WORK * len(shape.points)
  return float(box.prod() + 2 * _LINE_WIDTH * length + segments)


def most_work(shape, height, width) -> float:
  """At least `work`; of a polygon as if each of its edges met every row: counted in no
  time, and enough for what people draw."""
  if shape.kind != "polygon":
    return work(shape, height, width)
  count, rows = len(shape.points), height - min(0.0, shape.points[:, 1].min())
  return count**2 * rows + count * (height + width) + height * width / 10


def in_unit_square(shape, height, width):
  """Whether a shape looks as if its coordinates were fractions of a picture's size."""
  points = shape.points
  if shape.kind == "mask" or not len(points) or max(height, width) <= _SMALL_SIDE:
    return False
  return bool(points.min() >= 0 and points.max() <= 1)


def _stroke(mask_HW, shape):
  """Lines and points as labelme draws them with Pillow, in the box around them."""
  points_N2 = shape.points
  low = np.maximum(np.trunc(points_N2.min(axis=0)) - _REACH, 0).astype(int)
  high = np.trunc(points_N2.max(axis=0)) + _REACH + 1
  high = np.minimum(high, mask_HW.shape[::-1]).astype(int)
  if (high <= low).any():
    return
  part = Image.new("L", tuple((high - low).tolist()))
  pen = ImageDraw.Draw(part)

  def moved(points):  # Pillow truncates, which must come before the move
    return (np.trunc(points).astype(int) - low).reshape(-1).tolist()

  if shape.kind == "point":
    corners = points_N2 + [[-_POINT_RADIUS], [_POINT_RADIUS]]
    pen.ellipse(moved(corners), fill=1)
  else:
    pen.line(moved(points_N2), fill=1, width=_LINE_WIDTH)
  mask_HW[low[1] : high[1], low[0] : high[0]] |= np.asarray(part)


def _paste(mask_HW, shape):
  """The PNG with its first pixel on the box's corner; what sticks out is cut off."""
  try:
    crop = image_ops.decode_mask_png(shape.png)
  except image_ops.ImageError as e:
    raise ValueError(f"{shape.name}: its mask: {e}") from None
  left, top = np.trunc(shape.points.min(axis=0)).astype(int).tolist()
  crop = crop[max(0, -top) :, max(0, -left) :]
  left, top = max(0, left), max(0, top)
  place = mask_HW[top : top + crop.shape[0], left : left + crop.shape[1]]
  place |= crop[: place.shape[0], : place.shape[1]]


def _check_count(shape):
  wanted, count = _COUNTS.get(shape.kind), len(shape.points)
  if wanted and count not in (0, wanted):
    kind = shape.kind.replace("_", " ")
    article = "an" if kind[0] in "aeiou" else "a"
    plural = "" if wanted == 1 else "s"
    raise ValueError(f"{article} {kind} has {wanted} point{plural}, not {count}")


def _degenerate(shape):
  count = len(shape.points)
  if shape.kind in _FILLED:
    outline = mask_ops.outline(shape.kind, shape.points)
    empty = mask_ops.is_degenerate(outline)
    return f"{count} points enclose no area" if empty else ""
  if count == 0 or shape.kind in _LINES and count < 2:
    return f"{count} points are no {shape.kind}"
  return ""


def _parse_points(points):
  if not isinstance(points, list):
    raise ValueError("has no list 'points'")
  for k, point in enumerate(points):
    if not isinstance(point, list) or len(point) != 2:
      raise ValueError(f"point {k} is {short(point)}, want [x, y]")
    for value in point:
      if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"point {k} holds {short(value)}, want a number")
      if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"point {k} holds {value}, want a finite number")
      if abs(value) > mask_ops.MAX_COORDINATE:
        raise ValueError(
          f"point {k} holds {short(value)}, past the limit of "
          f"{mask_ops.MAX_COORDINATE:,.0f} pixels"
        )
  return np.array(points, np.float64).reshape(-1, 2)


def _parse_mask(text, points):
  """The PNG of a mask, as big as its box says; its header alone is read."""
  if not isinstance(text, str):
    raise ValueError("has no text 'mask', the PNG of a shape of type mask")
  try:
    png = base64.b64decode("".join(text.split()), validate=True)
  except (binascii.Error, ValueError):
    raise ValueError("its mask is not base64") from None
  if not image_headers.is_png(png):
    raise ValueError("its mask is no PNG")
  try:
    height, width = image_ops.image_size(png)
  except image_ops.ImageError as e:
    raise ValueError(f"its mask: {e}") from None
  box = np.ptp(np.trunc(points), axis=0) + 1  # both corners are inside
  if np.abs(box - [width, height]).max() > _BOX_TOLERANCE:
    raise ValueError(
      f"its mask has {width}x{height} pixels, its box {box[0]:.0f}x{box[1]:.0f}"
    )
  return png
