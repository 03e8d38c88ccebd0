"""Photographs as the published loaders show them, proven to decode whole.

C = 3 channels (RGB), H W size.
"""

import io
import struct
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from input_pipeline import image_ops
from input_pipeline.builders.folder import SourceFolder

_ORIENTATION = 0x0112
_QUALITY = 95  # of a JPEG that is written anew because its EXIF data turn it


class Photo(NamedTuple):
  """An encoded picture and its size in pixels."""

  data: bytes
  height: int
  width: int


def find(src: SourceFolder, name: str, prefixes: tuple[str, ...]) -> str:
  """`prefix + name` of the first prefix under which there is such a file.

  The first of all where there is none, so that its absence is named in the end. Raises
  ValueError for a name that leaves the source.
  """
  names = [prefix + name for prefix in prefixes]
  return next((n for n in names if src.is_file(n)), names[0])


def read_photo(src: SourceFolder, name: str) -> Photo:
  """The picture of a file. Raises ValueError with the file and the reason.

  A picture that its EXIF data turn is stored turned, as `cv2.imread` shows it to the
  published loaders. Of a GIF, whatever its name, the first frame becomes a PNG.
  """
  try:
    data = src.read(name)
    if data[:4] == b"GIF8":
      data = _first_frame(data)
    image_HWC = image_ops.decode_image(data)
    orientation = _orientation(data)
    if orientation != 1:
      image_HWC = _turned(image_HWC, orientation)
      data = _jpeg(image_HWC)
  except FileNotFoundError:
    raise ValueError(f"{name}: no such file") from None
  except (ValueError, image_ops.ImageError) as error:
    raise ValueError(f"{name}: {error}") from None
  return Photo(data, *image_HWC.shape[:2])


def _first_frame(data):
  try:
    with Image.open(io.BytesIO(data), formats=("GIF",)) as image:
      if image.width * image.height > image_ops.MAX_PIXELS:
        raise ValueError(f"GIF of {image.width}x{image.height} pixels is too large")
      image_HWC = np.asarray(image.convert("RGB"))
  except (OSError, SyntaxError, struct.error, EOFError, IndexError) as error:
    raise ValueError(f"damaged or truncated GIF: {error}") from None
  except Image.DecompressionBombError as error:
    raise ValueError(str(error)) from None
  return cv2.imencode(".png", image_HWC[..., ::-1])[1].tobytes()


def _orientation(data):
  """1 to 8 of a JPEG's EXIF data; 1, as stored, where they do not say."""
  if data[:3] != b"\xff\xd8\xff" or b"Exif\0\0" not in data[:65536]:
    return 1
  try:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
      found = image.getexif().get(_ORIENTATION, 1)
  except (OSError, ValueError, SyntaxError, struct.error, TypeError, KeyError):
    return 1  # damaged EXIF data turn nothing; the pixels are sound
  return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(image_HWC, orientation):
  """The picture as EXIF says that it is to be shown."""
  if orientation >= 5:
    image_HWC = image_HWC.transpose(1, 0, 2)
  if orientation in (2, 3, 6, 7):
    image_HWC = image_HWC[:, ::-1]
  if orientation in (3, 4, 7, 8):
    image_HWC = image_HWC[::-1]
  return np.ascontiguousarray(image_HWC)


def _jpeg(image_HWC):
  options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
  return cv2.imencode(".jpg", image_HWC[..., ::-1], options)[1].tobytes()
