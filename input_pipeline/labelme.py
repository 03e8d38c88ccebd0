"""labelme annotation files: shapes, the rule that finds a focus, its mask.

Which shapes are the target of a focus: those whose label equals it ignoring case; when
none does, those whose label contains it.
# differs from reference: the published loader takes every label that contains the
focus, so it merges "cell phone" with "shadow of the cell phone".
"""

import dataclasses
import functools
import math
import unicodedata
from typing import NamedTuple

import numpy as np

from input_pipeline import mask_ops

_DRAWABLE = ("polygon", "rectangle", "circle")
_NO_AREA = ("line", "linestrip", "point", "points")
MAX_SHAPES = 50_000
_PIXEL_WORK = 3  # of a mask, in units of `mask_ops.raster_work`


@dataclasses.dataclass(frozen=True)
class Shape:
  """One labelled shape. `defect` says why it is unusable, `degenerate` why it is
  dropped; both are "" for a good one."""

  index: int
  label: str
  kind: str
  points: np.ndarray
  defect: str = ""
  degenerate: str = ""

  @property
  def name(self):
    return f"shape {self.index} ({_short(self.label)})"

  @functools.cached_property
  def key(self):
    """The label as it is compared with a focus."""
    return _normal(self.label)


@dataclasses.dataclass(frozen=True)
class Annotation:
  """The labelled shapes of one image; a size is None where the file gives none."""

  height: int | None
  width: int | None
  shapes: tuple[Shape, ...]
  notes: tuple[str, ...] = ()


class Choice(NamedTuple):
  """The shapes of a focus. `ambiguous`: the published rule would take shapes of several
  labels; `note` says so where we take them all, too, since none is equal."""

  shapes: tuple[Shape, ...]
  ambiguous: bool
  note: str


def parse_annotation(document):
  """A labelme document (parsed JSON) -> Annotation. Raises ValueError with a reason.

  A defective shape does not refuse the file: it matters only to whom it belongs.
  """
  if not isinstance(document, dict):
    raise ValueError(f"holds a {type(document).__name__}, want a labelme object")
  shapes = document.get("shapes")
  if not isinstance(shapes, list):
    raise ValueError("has no list 'shapes'")
  if len(shapes) > MAX_SHAPES:
    raise ValueError(f"has {len(shapes):,} shapes, the limit is {MAX_SHAPES:,}")
  kept, notes = [], []
  for index, raw in enumerate(shapes):
    if not isinstance(raw, dict):
      raise ValueError(f"shape {index} is a {type(raw).__name__}, want an object")
    label = raw.get("label")
    if isinstance(label, str) and label.strip():
      kept.append(_parse_shape(index, label, raw))
    else:
      notes.append(f"shape {index} has no label and is skipped")
  return Annotation(
    _parse_side(document, "imageHeight"),
    _parse_side(document, "imageWidth"),
    tuple(kept),
    tuple(notes),
  )


def check_size(annotation, height, width):
  """Raises ValueError when the file was made for an image of another size."""
  stated = (annotation.height or height, annotation.width or width)
  if stated != (height, width):
    raise ValueError(
      f"is for an image of {stated[1]}x{stated[0]} pixels, "
      f"the image has {width}x{height}"
    )


def select_shapes(shapes, focus):
  """The shapes that `focus` names -> Choice."""
  wanted = _normal(focus)
  containing = [s for s in shapes if wanted in s.key]
  equal = [s for s in containing if s.key == wanted]
  labels = sorted({s.key for s in containing})
  ambiguous, note = len(labels) > 1, ""
  if ambiguous and not equal:
    listed = ", ".join(_short(label) for label in labels[:4])
    note = (
      f"focus {focus!r} is ambiguous: all of {len(labels)} labels ({listed}) hold it"
    )
  return Choice(tuple(equal or containing), ambiguous, note)


def check_work(choices, height, width):
  """Raises ValueError where making the mask of every Choice would take too long."""
  work = 0.0
  for choice in choices:
    outlines = [
      mask_ops.outline(s.kind, s.points)
      for s in choice.shapes
      if not s.defect and not s.degenerate
    ]
    work += mask_ops.raster_work(outlines, height, width)
    work += _PIXEL_WORK * height * width
  mask_ops.check_work(work, f"{len(choices)} masks of {width}x{height} pixels")


def focus_mask(chosen, focus, height, width):
  """Union of the chosen shapes -> (mask_HW uint8, notes on dropped shapes).

  Raises ValueError when a shape is defective or nothing is left to see: an item
  without ground truth is never an empty mask.
  """
  if not chosen:
    raise ValueError(f"no ground truth: no label equals or contains focus {focus!r}")
  for shape in chosen:
    if shape.defect:
      raise ValueError(f"{shape.name}: {shape.defect}")
  usable = [s for s in chosen if not s.degenerate]
  notes = [f"{s.name} is dropped: {s.degenerate}" for s in chosen if s.degenerate]
  if not usable:
    raise ValueError(
      f"no ground truth: every shape of focus {focus!r} is degenerate ({notes[0]})"
    )
  mask_HW = mask_ops.rasterise_shapes(
    [(s.kind, s.points) for s in usable], height, width
  )
  if not mask_HW.any():
    raise ValueError(
      f"no ground truth: the shapes of focus {focus!r} lie outside the image"
    )
  return mask_HW, notes


def focus_rle(chosen, focus, height, width):
  """`focus_mask` with the mask as COCO RLE."""
  mask_HW, notes = focus_mask(chosen, focus, height, width)
  return mask_ops.encode_rle(mask_HW), notes


def _normal(label):
  return unicodedata.normalize("NFC", label).casefold().strip()


def _parse_side(document, key):
  value = document.get(key)
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ValueError(f"{key} is {_short(value)}, want a positive whole number")
  return value


def _parse_shape(index, label, raw):
  kind = raw.get("shape_type") or "polygon"
  empty = np.zeros((0, 2))
  if kind in _NO_AREA:
    return Shape(index, label, kind, empty, degenerate=f"a {kind} has no area")
  if kind not in _DRAWABLE:
    reason = f"shape_type {_short(kind)} is not one of {', '.join(_DRAWABLE)}"
    return Shape(index, label, "polygon", empty, defect=reason)
  try:
    points = _parse_points(raw.get("points"))
  except ValueError as e:
    return Shape(index, label, kind, empty, defect=str(e))
  if kind == "circle" and len(points) not in (0, 2):
    reason = f"a circle has 2 points, not {len(points)}"
    return Shape(index, label, kind, points, defect=reason)
  degenerate = ""
  if mask_ops.is_degenerate(mask_ops.outline(kind, points)):
    degenerate = f"{len(points)} points enclose no area"
  return Shape(index, label, kind, points, degenerate=degenerate)


def _parse_points(points):
  if not isinstance(points, list):
    raise ValueError("has no list 'points'")
  for k, point in enumerate(points):
    if not isinstance(point, list) or len(point) != 2:
      raise ValueError(f"point {k} is {_short(point)}, want [x, y]")
    for value in point:
      if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"point {k} holds {_short(value)}, want a number")
      if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"point {k} holds {value}, want a finite number")
      if abs(value) > mask_ops.MAX_COORDINATE:
        raise ValueError(
          f"point {k} holds {_short(value)}, past the limit of "
          f"{mask_ops.MAX_COORDINATE:,.0f} pixels"
        )
  return np.array(points, np.float64).reshape(-1, 2)


def _short(value):
  """`value` for an error message, of bounded length. Never prints a huge number."""
  if isinstance(value, int) and abs(value) > 10**18:
    return "an enormous number"
  text = repr(value) if not isinstance(value, list | dict) else type(value).__name__
  return text if len(text) <= 60 else text[:57] + "..."
