"""Decodes a JPEG whose decoder warns, when every pixel is there.

The decoder tells its first warning only, so none can be ignored: more may be missing
behind it. Instead the file is mended of what the warning names, and counts as whole
when the mended file decodes without any warning.
"""

import re

import simplejpeg

from input_pipeline import image_headers

MAX_TRIES = 8
MAX_TRIED_PIXELS = 250_000_000  # of all tries together
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_SEQUENTIAL = (0xC0, 0xC1)
_WHOLE_BLOCK = b"\x00\x3f\x00"  # first and last coefficient, no approximation
_JFIF, _ADOBE = b"JFIF\0", b"Adobe"
_JFIF_VERSION, _ADOBE_TRANSFORM = 9, 15  # offsets in their segments
_YCBCR = b"\x01"


def decode(data, pixels):
  """Encoded JPEG of that many pixels -> RGB image_HWC uint8.

  Raises ValueError with the decoder's first warning where anything is missing.
  """
  tries = max(1, min(MAX_TRIES, MAX_TRIED_PIXELS // max(1, pixels)))
  waiting, first = [data], None
  for _ in range(1 + tries):
    if not waiting:
      break
    one = waiting.pop(0)
    try:
      return simplejpeg.decode_jpeg(one, colorspace="RGB", strict=True)
    except ValueError as e:
      first = first or e
      # Before other places for the same mend: this one may have led further.
      waiting = (_mend(one, str(e)) + waiting)[:MAX_TRIES]
  raise first


def _mend(data, warning):
  """Files without what the decoder warns of, one for each place that may be meant."""
  if found := _STRAY.search(warning):
    return _without_stray(data, int(found[1]), int(found[2], 16))
  if "JFIF revision" in warning:
    return _patched(data, image_headers.APP0, _JFIF, _JFIF_VERSION, b"\x01")
  if "Adobe color transform" in warning:
    return _patched(data, image_headers.APP14, _ADOBE, _ADOBE_TRANSFORM, _YCBCR)
  if "Invalid SOS parameters" in warning:
    return _whole_blocks(data)
  if "Premature end of JPEG file" in warning and _is_one_scan(data):
    return [data + b"\xff\xd9"]
  return []


def _without_stray(data, count, marker):
  """`count` bytes fewer before a marker, for the first few places where they may be."""
  out = []
  for at in _stray_places(data, count, marker):
    while data[at - 1] == 0xFF:  # such bytes before a marker are legal and not counted
      at -= 1
    out.append(data[: at - count] + data[at:])
    if len(out) == MAX_TRIES:
      break
  return out


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


def _patched(data, marker, name, offset, value):
  """With one byte of the segment of that name replaced."""
  for found, at, _ in image_headers.jpeg_markers(data):
    if found == marker and data[at + 4 : at + 4 + len(name)] == name:
      return [data[: at + offset] + value + data[at + offset + 1 :]]
  return []


def _frame(data):
  """(marker, components) of the header of the frame; None where there is none."""
  for marker, at, _ in image_headers.jpeg_markers(data):
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      return marker, data[at + 9 : at + 10]
  return None


def _whole_blocks(data):
  """Scans of a sequential frame are of whole blocks, whatever their headers say."""
  if (frame := _frame(data)) is None or frame[0] not in _SEQUENTIAL:
    return []
  out = bytearray(data)
  for marker, _, end in image_headers.jpeg_markers(data):
    if marker == image_headers.SCAN and end <= len(data):
      out[end - 3 : end] = _WHOLE_BLOCK
  return [bytes(out)] if out != data else []


def _is_one_scan(data):
  """Whether one scan holds all: its end is then the end of the pixels."""
  frame = _frame(data)
  scans = list(_scans(data))
  if frame is None or frame[0] not in _SEQUENTIAL or len(scans) != 1:
    return False
  return data[scans[0] + 4 : scans[0] + 5] == frame[1]
