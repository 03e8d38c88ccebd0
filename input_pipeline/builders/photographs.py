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

  Its size is that of the picture as EXIF turns it, as `cv2.imread` shows it to the
  published loaders. Of a GIF, whatever its name, the first frame becomes a PNG.
  """
  try:
    data = src.read(name)
    if data[:4] == b"GIF8":
      data = _first_frame(data)
    height, width = image_ops.decode_image(data).shape[:2]
  except FileNotFoundError:
    raise ValueError(f"{name}: no such file") from None
  except (ValueError, image_ops.ImageError) as error:
    raise ValueError(f"{name}: {error}") from None
  return Photo(data, height, width)


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
