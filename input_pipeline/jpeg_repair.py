"""Decodes a JPEG whose decoder warns, when every pixel is there.

The decoder tells its first warning only, so none can be ignored: more may be missing
behind it. Instead the file is mended of what the warning names, and counts as whole
when the mended file decodes without any warning.
"""

import itertools
import re

import simplejpeg

from input_pipeline import image_headers

MAX_TRIES = 8  # and of all tries together:
MAX_TRIED_PIXELS = 250_000_000
MAX_TRIED_BYTES = 1 << 28
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_SEQUENTIAL = (0xC0, 0xC1)
_WHOLE_BLOCK = b"\x00\x3f\x00"  # first and last coefficient, no approximation
_JFIF, _ADOBE = b"JFIF\0", b"Adobe"
_JFIF_VERSION, _ADOBE_TRANSFORM = 9, 15  # offsets in their segments


def decode(data, pixels):
  """Encoded JPEG of that many pixels -> RGB image_HWC uint8.

  Raises ValueError with the decoder's first warning where anything is missing.
  """
  tries = min(MAX_TRIES, MAX_TRIED_PIXELS // pixels, MAX_TRIED_BYTES // len(data))
  waiting, first = iter([data]), None
  for _ in range(1 + max(1, tries)):
    if (mended := next(waiting, None)) is None:
      break
    try:
      return simplejpeg.decode_jpeg(mended, colorspace="RGB", strict=True)
    except ValueError as e:
      first = first or e
      # Before other places of the mend before: this one may have led further.
      waiting = itertools.chain(_mend(mended, str(e)), waiting)
  raise first


def _mend(data, warning):
  """Yields files without what the decoder warns of, one for each place it may mean."""
  if found := _STRAY.search(warning):
    yield from _without_stray(data, int(found[1]), int(found[2], 16))
  elif "JFIF revision" in warning:
    yield from _with_one(data, image_headers.APP0, _JFIF, _JFIF_VERSION)
  elif "Adobe color transform" in warning:  # 1 is YCbCr
    yield from _with_one(data, image_headers.APP14, _ADOBE, _ADOBE_TRANSFORM)
  elif "Invalid SOS parameters" in warning:
    yield from _with_whole_blocks(data)
  elif "Premature end of JPEG file" in warning and _is_one_scan(data):
    yield data + b"\xff\xd9"


def _without_stray(data, count, marker):
  """`count` bytes fewer before a marker, for each place where they may be."""
  for at in _stray_places(data, count, marker):
    while data[at - 1] == 0xFF:  # such bytes before a marker are legal and not counted
      at -= 1
    yield data[: max(2, at - count)] + data[at:]


def _stray_places(data, count, marker):
  """Offsets of the markers of that kind that `count` bytes of no segment precede."""
  if 0xD0 <= marker <= 0xD7:
    start = next(_scans(data), len(data)) + count
    restart = re.compile(b"\xff" + bytes([marker]))
    yield from (match.start() for match in restart.finditer(data, start))
  end = 2
  for found, at, after in image_headers.jpeg_markers(data):
    if found == marker and at - end >= count:
      yield at
    end = after


def _scans(data):
  markers = image_headers.jpeg_markers(data)
  return (at for marker, at, _ in markers if marker == image_headers.SCAN)


def _with_one(data, marker, name, offset):
  """With a byte 1 at an offset of the segment of that name."""
  for found, at, _ in image_headers.jpeg_markers(data):
    if found == marker and data[at + 4 : at + 4 + len(name)] == name:
      yield data[: at + offset] + b"\x01" + data[at + offset + 1 :]
      return


def _frame(data):
  """(marker, number of components as a byte) of the frame; None where there is none."""
  for marker, at, _ in image_headers.jpeg_markers(data):
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      return marker, data[at + 9 : at + 10]
  return None


def _with_whole_blocks(data):
  """Scans of a sequential frame are of whole blocks, whatever their headers say."""
  if (frame := _frame(data)) is None or frame[0] not in _SEQUENTIAL:
    return
  out = bytearray(data)
  for marker, _, end in image_headers.jpeg_markers(data):
    if marker == image_headers.SCAN and end <= len(data):
      out[end - 3 : end] = _WHOLE_BLOCK
  yield bytes(out)


def _is_one_scan(data):
  """Whether one scan holds all: its end is then the end of the pixels."""
  frame, scans = _frame(data), list(_scans(data))
  if frame is None or frame[0] not in _SEQUENTIAL or len(scans) != 1:
    return False
  return data[scans[0] + 4 : scans[0] + 5] == frame[1]
