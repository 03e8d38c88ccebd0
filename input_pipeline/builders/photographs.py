"""The photograph of a unit: read, proven to decode, upright as its annotators saw it."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from input_pipeline import image_ops
from input_pipeline.builders.folder import SourceFolder

_ORIENTATION = 0x0112  # of EXIF
# What makes a stored picture upright, by the value of that tag.
_TURNS = {
  2: lambda image: image[:, ::-1],
  3: lambda image: image[::-1, ::-1],
  4: lambda image: image[::-1],
  5: lambda image: image.swapaxes(0, 1),
  6: lambda image: image.swapaxes(0, 1)[:, ::-1],
  7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
  8: lambda image: image.swapaxes(0, 1)[::-1],
}


class Photo(NamedTuple):
  """An encoded picture and its size, the same for everybody who decodes it."""

  image: bytes
  height: int
  width: int


def read(src: SourceFolder, name: str, size: tuple[int, int] | None = None) -> Photo:
  """The picture of a file below the source's root.

  size: (height, width) that the annotations state. A picture with an EXIF orientation
  is stored anew, upright, as the loaders of these sources show it; not where its
  annotations are of the size of the stored pixels alone. Raises ValueError, which
  names the file.
  """
  try:
    data = src.read(name)
    image_HWC = image_ops.decode_image(data)
    upright_HWC = _upright(data, image_HWC)
  except FileNotFoundError:
    raise ValueError(f"{name}: no such file") from None
  except (ValueError, image_ops.ImageError) as error:
    raise ValueError(f"{name}: {error}") from None
  stored_only = size == image_HWC.shape[:2] != upright_HWC.shape[:2]
  if upright_HWC is not image_HWC and not stored_only:
    data, image_HWC = _encode(upright_HWC), upright_HWC
  if size not in (None, image_HWC.shape[:2]):
    stated, found = "x".join(map(str, size)), "x".join(map(str, image_HWC.shape[:2]))
    raise ValueError(f"{name}: is {found} pixels high and wide, annotated as {stated}")
  return Photo(data, *image_HWC.shape[:2])


def _upright(data, image_HWC):
  """The picture turned as its EXIF data say; itself where they say nothing."""
  try:
    with Image.open(io.BytesIO(data)) as image:
      turn = _TURNS.get(image.getexif().get(_ORIENTATION))
  except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
    return image_HWC  # damaged EXIF data of a picture that decodes
  return image_HWC if turn is None else np.ascontiguousarray(turn(image_HWC))


def _encode(image_HWC):
  stream = io.BytesIO()
  Image.fromarray(image_HWC).save(stream, "PNG")
  return stream.getvalue()
