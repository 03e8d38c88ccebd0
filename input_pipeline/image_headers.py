"""What the bytes of a picture say without decoding it: its parts and their work."""

import re

MAX_PIXELS = 120_000_000  # of a picture or mask; a "108 megapixel" phone has 108.6
MAX_MARKERS = 100_000  # no more markers or chunks are followed
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
SCAN, APP0, APP1, APP14, END = 0xDA, 0xE0, 0xE1, 0xEE, 0xD9
_SCAN_BYTES = b"\xff\xda"
_BARE = (0x01, *range(0xD0, 0xDA))  # markers without a length after them
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# Ends the compressed data of a scan: not a stuffed zero, a restart or a fill byte.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def is_jpeg(data: bytes) -> bool:
  return data[:3] == b"\xff\xd8\xff"


def is_png(data: bytes) -> bool:
  return data[:8] == PNG_HEAD


def jpeg_markers(data: bytes):
  """Yields (marker, offset of its last 0xFF, offset after its segment) of a JPEG.

  The compressed data of a scan is passed over with its restart markers. Of a damaged
  file yields those that its markers lead to; ends after MAX_MARKERS or at the end
  marker, which is the last one yielded. A thumbnail inside the metadata is not entered.
  """
  at = 2
  for _ in range(MAX_MARKERS):
    if (found := _MARKER.search(data, at)) is None:
      return
    start, marker = found.start(), data[found.end() - 1]
    at = found.end()
    if marker not in _BARE:
      at += int.from_bytes(data[at : at + 2], "big")
    yield marker, start, at
    if marker == END:
      return
    if marker == SCAN:
      found = _NEXT_MARKER.search(data, at)
      at = found.start() if found else len(data)


def count_scans(data: bytes) -> int:
  """Number of scans of a JPEG; where too many markers were followed, what is left
  counts as scans."""
  markers = list(jpeg_markers(data))
  count = sum(marker == SCAN for marker, _, _ in markers)
  if len(markers) < MAX_MARKERS:
    return count
  return count + data.count(_SCAN_BYTES, markers[-1][2])


def may_have_scans(data: bytes) -> int:
  """At least `count_scans`, at once."""
  return data.count(_SCAN_BYTES)


def png_chunks(data: bytes):
  """Yields (type, start, end) of the chunks of a PNG, with length and CRC, up to the
  first that is cut short, past MAX_MARKERS, or IEND."""
  at = len(PNG_HEAD)
  for _ in range(MAX_MARKERS):
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    if end > len(data):
      return
    kind = data[at + 4 : at + 8]
    yield kind, at, end
    if kind == b"IEND":
      return
    at = end


def bare_png(data: bytes) -> bytes:
  """A PNG without the chunks that its pixels do not need, such as profile and text.

  The decoder refuses a file for the size of those, which would cost it memory.
  """
  view, kept, at = memoryview(data), [PNG_HEAD], len(PNG_HEAD)
  for kind, start, end in png_chunks(data):
    at = end
    if kind[:1].isupper() or kind == b"tRNS":
      kept.append(view[start:end])
  return b"".join([*kept, view[at:]])
