"""What the bytes of a JPEG say about the work of decoding it, without decoding it."""

import re

MAX_MARKERS = 100_000  # no more are followed: what is left counts as scans
_SCAN, _SCAN_BYTES, _END = 0xDA, b"\xff\xda", 0xD9
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length after them
# Ends the compressed data of a scan: not a stuffed zero, a restart or a fill byte.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def count_scans(data: bytes) -> int:
  """Number of scans of a JPEG; of a damaged one those that its markers lead to.

  A thumbnail inside the metadata has scans of its own, which do not count.
  """
  count, at = 0, 2
  for _ in range(MAX_MARKERS):
    at = data.find(b"\xff", at)
    if at < 0 or at + 4 > len(data) or data[at + 1] == _END:
      return count
    marker = data[at + 1]
    if marker == 0xFF:
      at += 1
    elif marker in _BARE:
      at += 2
    else:
      at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if marker == _SCAN:
      count += 1
      found = _NEXT_MARKER.search(data, at)
      at = found.start() if found else len(data)
  return count + data.count(_SCAN_BYTES, at)


def may_have_scans(data: bytes) -> int:
  """At least `count_scans`, at once."""
  return data.count(_SCAN_BYTES)
