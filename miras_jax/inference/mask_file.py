"""A user's mask from a file: a PNG of one channel, labelme's JSON, or of COCO an
annotation or the RLE alone."""

import pathlib
from typing import NamedTuple

import numpy as np

from input_pipeline import coco_masks, image_ops, labelme, mask_ops, safe_files
from miras_jax.errors import UserError

_KNOWN = (
  "want labelme's JSON (shapes), one annotation of COCO (segmentation) or its RLE (size"
  " and counts)"
)
SHOWN = 5  # values of a label map that are named


class Given(NamedTuple):
  """mask_HW: bool. labels: of the shapes, or values of the pixels, that it is the union
  of, where it is so."""

  mask_HW: np.ndarray
  labels: tuple[str, ...] = ()


def read(path, size) -> Given:
  """The mask of an image of `size` (H, W): of a labelme file all its shapes.

  Raises UserError naming the file.
  """
  path = pathlib.Path(path)
  try:
    given = _json(path, size) if path.suffix.lower() == ".json" else _png(path, size)
  except FileNotFoundError:
    raise UserError(f"{path}: no such file") from None
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror}") from None
  except (ValueError, image_ops.ImageError) as error:
    raise UserError(f"{path}: {error}") from None
  if not given.mask_HW.any():
    raise UserError(f"{path}: no pixel is inside")
  return given


def _png(path, size):
  data = safe_files.read_bytes(path, safe_files.MAX_MASK_BYTES)
  _check_size(image_ops.image_size(data), size)
  values_HW = image_ops.decode_label_png(data)
  return Given(values_HW != 0, _values(np.unique(values_HW[values_HW != 0])))


def _values(found):
  """Labels of a label map, or of a mask with soft edges, the first few."""
  shown = tuple(f"value {value}" for value in found[:SHOWN])
  more = len(found) - len(shown)
  return (*shown, f"{more} more") if more else shown


def _json(path, size):
  data = safe_files.read_without_text(path, "imageData", safe_files.MAX_MASK_BYTES)
  document = safe_files.parse_json(data)[0]
  if not isinstance(document, dict):
    raise ValueError(f"holds a {type(document).__name__}: {_KNOWN}")
  if "annotations" in document:
    raise ValueError(f"is a whole data set of COCO: {_KNOWN}")
  if "segmentation" in document:
    document = document["segmentation"]
    if not isinstance(document, dict):  # polygons have no size of their own
      return Given(coco_masks.union(document, *size) != 0)
  if "counts" in document:
    mask_HW = mask_ops.decode_rle(document)
    _check_size(mask_HW.shape, size)
    return Given(mask_HW != 0)
  if "shapes" not in document:
    raise ValueError(f"is no mask: {_KNOWN}")
  return _shapes(labelme.parse_annotation(document), size)


def _shapes(annotation, size):
  """All shapes of a labelme file; what is left out would not be what the user drew."""
  labelme.check_size(annotation, *size)
  if not annotation.shapes and not annotation.notes:
    raise ValueError("has no shape")
  if annotation.notes:
    what = annotation.notes[0].removesuffix(" and is skipped")
    raise ValueError(f"{what}: give it one or take it out")
  for shape in annotation.shapes:
    if reason := shape.defect or shape.degenerate:
      raise ValueError(f"{shape.name}: {reason}; mend it or take it out")
  mask_HW, notes = labelme.union(annotation.shapes, *size)
  if notes:
    raise ValueError(f"{notes[0]}: mend it or take it out")
  labels = dict.fromkeys(shape.label for shape in annotation.shapes)
  return Given(mask_HW != 0, tuple(labels))


def _check_size(found, size):
  if found != tuple(size):
    (height, width), (H, W) = found, size
    raise ValueError(f"{width}x{height} pixels, the image is {W}x{H}")
