"""A user's mask from a file: a PNG of one channel, labelme's JSON, or of COCO an
annotation or the RLE alone."""

import pathlib

import numpy as np

from input_pipeline import coco_masks, image_ops, labelme, mask_ops, safe_files
from miras_jax.errors import UserError


def read(path, size) -> np.ndarray:
  """bool (H, W) of an image of `size` (H, W): of a labelme file all its shapes.

  Raises UserError naming the file.
  """
  path = pathlib.Path(path)
  try:
    mask_HW = _json(path, size) if path.suffix.lower() == ".json" else _png(path, size)
  except FileNotFoundError:
    raise UserError(f"{path}: no such file") from None
  except OSError as error:
    raise UserError(f"{path}: cannot be read: {error.strerror}") from None
  except (ValueError, image_ops.ImageError) as error:
    raise UserError(f"{path}: {error}") from None
  if not mask_HW.any():
    raise UserError(f"{path}: no pixel is inside")
  return mask_HW


def _png(path, size):
  data = safe_files.read_bytes(path, safe_files.MAX_MASK_BYTES)
  _check_size(image_ops.image_size(data), size)
  return image_ops.decode_mask_png(data)


def _json(path, size):
  data = safe_files.read_without_text(path, "imageData", safe_files.MAX_MASK_BYTES)
  document = safe_files.parse_json(data)[0]
  if isinstance(document, dict) and "segmentation" in document:
    document = document["segmentation"]
    if not isinstance(document, dict):  # polygons have no size of their own
      return coco_masks.union(document, *size) != 0
  if isinstance(document, dict) and "counts" in document:
    mask_HW = mask_ops.decode_rle(document)
    _check_size(mask_HW.shape, size)
    return mask_HW != 0
  annotation = labelme.parse_annotation(document)
  labelme.check_size(annotation, *size)
  if not annotation.shapes and not annotation.notes:
    raise ValueError("has no shape")
  if annotation.notes:
    raise ValueError(f"{annotation.notes[0]}: give it a label or take it out")
  mask_HW, notes = labelme.focus_mask(annotation.shapes, path.name, *size)
  if notes:  # half of what was drawn is not what the user means
    raise ValueError(f"{notes[0]}: mend it or take it out")
  return mask_HW != 0


def _check_size(found, size):
  if found != tuple(size):
    (height, width), (H, W) = found, size
    raise ValueError(f"{width}x{height} pixels, the image is {W}x{H}")
