"""EXIF orientation: how a viewer turns the stored pixels of a photograph.

Cameras store pixels as the sensor lies and write beside them how to turn them; viewers
and annotation tools show the turned picture. Read from JPEG, PNG, WebP and TIFF. H W
size of the stored picture.
"""

import itertools
import zlib
from typing import NamedTuple

import numpy as np

from input_pipeline import image_headers

_TAG = 0x0112
_BYTES_OF_TYPE = {1: 1, 3: 2, 4: 4}
_MAX_ENTRIES = 65_536
_INTRO = b"Exif\0\0"


class _Place(NamedTuple):
  """Bytes start..end of a file hold the orientation, in this byte order."""

  start: int
  end: int
  order: str


def orientation(data):
  """Of an encoded picture: 1 (as stored) to 8; 1 also where none, or none such, is."""
  place = _find(data)
  value = int.from_bytes(data[place.start : place.end], place.order) if place else 1
  return value if 1 <= value <= 8 else 1


def without_orientation(data):
  """The same file, whose pixels are shown as they are stored."""
  place = _find(data)
  if place is None:
    return data
  out = bytearray(data)
  out[place.start : place.end] = (1).to_bytes(place.end - place.start, place.order)
  if image_headers.is_png(data):
    start, end = _png_chunk(data)
    out[end - 4 : end] = zlib.crc32(out[start + 4 : end - 4]).to_bytes(4, "big")
  return bytes(out)


def is_tiff(data):
  return _byte_order(data, 0) is not None


def is_quarter_turn(turn):
  """Whether an orientation exchanges height and width."""
  return turn >= 5


def apply(image_HWC, turn):
  """The picture as a viewer shows it: (H, W, C), or (W, H, C) after a quarter turn."""
  if is_quarter_turn(turn):
    image_HWC = image_HWC.swapaxes(0, 1)
  if turn in (3, 4, 7, 8):
    image_HWC = image_HWC[::-1]
  if turn in (2, 3, 6, 7):
    image_HWC = image_HWC[:, ::-1]
  return np.ascontiguousarray(image_HWC)


def _find(data):
  """The _Place of the orientation of an encoded picture, or None."""
  if image_headers.is_jpeg(data):
    return _find_in_jpeg(data)
  if image_headers.is_png(data):
    chunk = _png_chunk(data)
    return chunk and _find_in_exif(data, chunk[0] + 8, chunk[1] - 4)
  if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
    return _find_in_webp(data)
  return _find_in_tiff(data, 0, len(data))


def _find_in_jpeg(data):
  for marker, start, end in image_headers.jpeg_markers(data):
    if marker == image_headers.SCAN:
      return None
    if marker == image_headers.APP1 and data[start + 4 : start + 10] == _INTRO:
      return _find_in_exif(data, start + 4, end)
  return None


def _png_chunk(data):
  """(start, end) of the chunk of a PNG that holds EXIF, or None."""
  chunks = image_headers.png_chunks(data)
  return next(((start, end) for kind, start, end in chunks if kind == b"eXIf"), None)


def _find_in_webp(data):
  at = 12
  for _ in range(image_headers.MAX_MARKERS):
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    if at + 8 + size > len(data) or at + 8 > len(data):
      return None
    if data[at : at + 4] == b"EXIF":
      return _find_in_exif(data, at + 8, at + 8 + size)
    at += 8 + size + size % 2
  return None


def _find_in_exif(data, start, end):
  """In an EXIF block, which is a small TIFF file, after an introduction or without."""
  if data[start : start + len(_INTRO)] == _INTRO:
    start += len(_INTRO)
  return _find_in_tiff(data, start, min(end, len(data)))


def _byte_order(data, start):
  orders = {b"II*\0": "little", b"II+\0": "little", b"MM\0*": "big", b"MM\0+": "big"}
  return orders.get(bytes(data[start : start + 4]))


def _find_in_tiff(data, start, end):
  """In the first directory of the TIFF, or BigTIFF, that data[start:end] holds."""
  order = _byte_order(data, start)
  if order is None:
    return None

  def number(at, length):
    return int.from_bytes(data[at : at + length], order)

  big = number(start + 2, 2) == 43
  count_size, entry_size, value_at = (8, 20, 12) if big else (2, 12, 8)
  directory = start + (number(start + 8, 8) if big else number(start + 4, 4))
  first = directory + count_size
  count = min(number(directory, count_size), _MAX_ENTRIES)
  for at in itertools.islice(itertools.count(first, entry_size), count):
    if at + entry_size > end:
      return None
    if number(at, 2) == _TAG:
      size = _BYTES_OF_TYPE.get(number(at + 2, 2))
      place = at + value_at
      return _Place(place, place + size, order) if size else None
  return None
