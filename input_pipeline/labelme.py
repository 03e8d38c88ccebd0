"""labelme annotation files: shapes, the rule that finds a focus, its mask.

Which shapes are the target of a focus: those whose label equals it ignoring case; when
none does, those whose label contains it.
# differs from reference: the published loader takes every label that contains the
focus, so it merges "cell phone" with "shadow of the cell phone".
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from input_pipeline import labelme_shapes, mask_ops, safe_files
from input_pipeline.labelme_shapes import Shape, normal, shape_mask, short

__all__ = ["Shape", "shape_mask"]  # and what is defined here

CODE_PAGE = "cp1252"  # of files that are not UTF-8, as the published loader reads them
MAX_SHAPES = 50_000
_PIXEL_WORK = 3  # of a mask, in units of `mask_ops.raster_work`


@dataclasses.dataclass(frozen=True)
class Annotation:
  """The labelled shapes of one image; a size is None where the file gives none.

  image_path: the photograph as the file names it, relative to it, "" for none.
  code_page: what a file that is not UTF-8 was read as, else "".
  """

  height: int | None
  width: int | None
  shapes: tuple[Shape, ...]
  notes: tuple[str, ...] = ()
  image_path: str = ""
  code_page: str = ""


class Choice(NamedTuple):
  """The shapes of a focus. `ambiguous`: the published rule would take shapes of several
  labels; `note` says so where we take them all, too, since none is equal."""

  shapes: tuple[Shape, ...]
  ambiguous: bool
  note: str


def read_annotation(path):
  """A labelme file -> Annotation. Raises FileNotFoundError, ValueError with a reason.

  The photograph that labelme stores in the file, `imageData`, is passed over.
  """
  data = safe_files.read_without_text(path, "imageData", safe_files.MAX_MASK_BYTES)
  document, repeated = safe_files.parse_json(data, fallback_encoding=CODE_PAGE)
  annotation = parse_annotation(document)
  return dataclasses.replace(
    annotation,
    notes=(*annotation.notes, *safe_files.repeated_notes(repeated)),
    code_page="" if safe_files.is_utf8(data) else CODE_PAGE,
  )


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
      kept.append(labelme_shapes.parse_shape(index, label, raw))
    else:
      notes.append(f"shape {index} has no label and is skipped")
  image_path = document.get("imagePath")
  return Annotation(
    _parse_side(document, "imageHeight"),
    _parse_side(document, "imageWidth"),
    tuple(kept),
    tuple(notes),
    safe_files.forward(image_path) if isinstance(image_path, str) else "",
  )


def fits_size(annotation, height, width):
  """Whether the file may have been made for an image of that size."""
  stated = (annotation.height or height, annotation.width or width)
  return stated == (height, width)


def check_size(annotation, height, width):
  """Raises ValueError when the file was made for an image of another size."""
  if not fits_size(annotation, height, width):
    stated = f"{annotation.width or width}x{annotation.height or height}"
    raise ValueError(
      f"is for an image of {stated} pixels, the image has {width}x{height}"
    )


def code_page_note(annotation, choices):
  """Why labels may be misread in a file that is not UTF-8, or "".

  choices: {focus: its Choice}. One that has other letters than ASCII and names a shape
  shows that the code page is the right one.
  """
  if not annotation.code_page or all(s.label.isascii() for s in annotation.shapes):
    return ""
  if any(c.shapes and not focus.isascii() for focus, c in choices.items()):
    return ""
  return (
    f"the file is not UTF-8 and was read as {annotation.code_page}, which may be wrong"
    " for its labels; save it as UTF-8"
  )


def select_shapes(shapes, focus):
  """The shapes that `focus` names -> Choice."""
  wanted = normal(focus)
  containing = [s for s in shapes if wanted in s.key]
  equal = [s for s in containing if s.key == wanted]
  labels = sorted({s.key for s in containing})
  ambiguous, note = len(labels) > 1, ""
  if ambiguous and not equal:
    listed = ", ".join(short(label) for label in labels[:4])
    note = (
      f"focus {focus!r} is ambiguous: all of {len(labels)} labels ({listed}) hold it"
    )
  return Choice(tuple(equal or containing), ambiguous, note)


def check_work(choices, height, width):
  """Raises ValueError where making the mask of every Choice would take too long."""
  of = f"{len(choices)} masks of {width}x{height} pixels"
  _check_work([choice.shapes for choice in choices], height, width, of)


def _check_work(chosen, height, width, of="the mask"):
  """`mask_ops.check_work` of the masks of these shapes."""
  most = sum(_draw_work(c, height, width, labelme_shapes.most_work) for c in chosen)
  if most > mask_ops.MAX_WORK:  # seldom; to count it costs as much as to draw
    exact = sum(_draw_work(c, height, width, labelme_shapes.work) for c in chosen)
    mask_ops.check_work(exact, of)


def _draw_work(shapes, height, width, work):
  usable = [s for s in shapes if not s.defect and not s.degenerate]
  drawn = sum(work(shape, height, width) for shape in usable)
  return drawn + _PIXEL_WORK * height * width


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
  mask_HW, odd = union(usable, height, width)
  notes += odd
  if not mask_HW.any():
    raise ValueError(
      f"no ground truth: the shapes of focus {focus!r} lie outside the image"
    )
  return mask_HW, notes


def union(usable, height, width):
  """Good shapes -> (mask_HW uint8 of all, notes on those that look normalised).

  Raises ValueError where they would take too long to draw, or all look normalised.
  """
  notes = _check_coordinates(usable, height, width)
  _check_work([usable], height, width)
  mask_HW = np.zeros((height, width), np.uint8)
  for shape in usable:
    labelme_shapes.draw(mask_HW, shape)
  return mask_HW, notes


def _check_coordinates(usable, height, width):
  """Notes on shapes within the first pixel; ValueError where no other shape is left."""
  tiny = [s for s in usable if labelme_shapes.in_unit_square(s, height, width)]
  notes = [
    f"{s.name}: all its coordinates lie between 0 and 1 in a picture of"
    f" {width}x{height}: normalised? labelme's are in pixels"
    for s in tiny
  ]
  if tiny and len(tiny) == len(usable):
    raise ValueError(notes[0])
  return notes


def focus_rle(chosen, focus, height, width):
  """`focus_mask` with the mask as COCO RLE."""
  mask_HW, notes = focus_mask(chosen, focus, height, width)
  return mask_ops.encode_rle(mask_HW), notes


def _parse_side(document, key):
  value = document.get(key)
  if value is None:
    return None
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ValueError(f"{key} is {short(value)}, want a positive whole number")
  return value
