"""Every picture once: what is equal, what looks alike. 300 bytes of memory a picture.

Pixels are compared by a digest; what looks alike by a perceptual hash of 64 bits (signs
of the lowest frequencies of a cosine transform) and then by a thumbnail, since plain
pictures have the same hash by chance.
"""

import hashlib
import re
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

NEAR_BITS = 6  # most bits in which the hashes of alike pictures differ
THUMB = 16  # side of a thumbnail, pixels
ALIKE = 0.95  # least correlation of the thumbnails of alike pictures
_PLAIN = 4.0  # standard deviation of grey levels below which a picture is plain
_SIDE, _LOW = 32, 8
_BITS = 64
_CHUNK = 1 << 22  # comparisons at a time
_COCO = re.compile(r"(?:^|\D)(\d{12})(?:\.\w+)?$")


def pixel_digest(image_HWC) -> int:
  """64 bits of a digest over size and pixels."""
  digest = hashlib.blake2b(repr(image_HWC.shape).encode(), digest_size=8)
  digest.update(np.ascontiguousarray(image_HWC))
  return int.from_bytes(digest.digest())


def id_digest(text: str) -> int:
  """64 bits of a digest of an id."""
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def coco_id(image_id: str) -> str:
  """The number of a COCO picture in its name, whatever release named it; or ""."""
  match = _COCO.search(image_id)
  return match[1] if match else ""


def perceptual_hash(image_HWC) -> int:
  """64 bits, of which few change with size, compression and light."""
  grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
  small = cv2.resize(grey_HW, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
  low = cv2.dct(small.astype(np.float32))[:_LOW, :_LOW].reshape(-1)
  return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes())


def thumbnail(image_HWC):
  """Grey levels (THUMB * THUMB,) uint8."""
  grey_HW = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY)
  return cv2.resize(grey_HW, (THUMB, THUMB), interpolation=cv2.INTER_AREA).reshape(-1)


def alike(a, b) -> bool:
  """Whether two thumbnails show one picture, in whatever light."""
  a, b = a.astype(np.float64), b.astype(np.float64)
  if min(a.std(), b.std()) < _PLAIN:
    return bool(np.abs(a - b).max() <= _PLAIN)
  return bool(np.corrcoef(a, b)[0, 1] >= ALIKE)


class Row(NamedTuple):
  """What is kept of a picture: digests of pixels, id and COCO number (0: none)."""

  digest: int
  hash: int
  id: int
  coco: int
  thumb: bytes


def describe(image_id: str, image_HWC) -> Row:
  """The row of a picture."""
  return Row(
    pixel_digest(image_HWC),
    perceptual_hash(image_HWC),
    id_digest(image_id) if image_id else 0,
    int(coco_id(image_id) or 0),
    thumbnail(image_HWC).tobytes(),
  )


class Pictures:
  """A table with a row for each picture of each source, in order of sources.

  record: the first that shows it.
  """

  def __init__(self):
    self.source, self.record = array("i"), array("q")
    self.digest, self.hash = array("Q"), array("Q")
    self.id, self.coco = array("Q"), array("Q")
    self._thumbs = bytearray()

  def __len__(self):
    return len(self.source)

  def add(self, source: int, record: int, row: Row) -> None:
    """A picture of a source that no earlier record of it shows."""
    self.source.append(source)
    self.record.append(record)
    for name in ("digest", "hash", "id", "coco"):
      getattr(self, name).append(getattr(row, name))
    self._thumbs += row.thumb

  def thumb(self, row: int):
    size = THUMB * THUMB
    return np.frombuffer(self._thumbs, np.uint8, size, row * size)


def near_pairs(hashes_N, most: int = NEAR_BITS) -> Iterator[tuple[int, int]]:
  """Pairs (i, j), i < j, of distinct hashes that differ in at most `most` bits.

  Two such hashes agree in one of `most` + 1 bands of bits; so only those that share a
  band are compared, not all pairs.
  """
  hashes_N = np.asarray(hashes_N, np.uint64)
  edges = np.linspace(0, _BITS, most + 2).astype(int)
  bands = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
  for number, band in enumerate(bands):
    key_N = _band(hashes_N, band)
    order_N = np.argsort(key_N, kind="stable")
    cuts = np.flatnonzero(np.diff(key_N[order_N])) + 1
    for run in np.split(order_N, cuts):
      for i, j in _near_in(hashes_N, run, most):
        earlier = bands[:number]
        if not any(_band(hashes_N[i], b) == _band(hashes_N[j], b) for b in earlier):
          yield (int(i), int(j)) if i < j else (int(j), int(i))


def _band(hashes, band):
  low, high = band
  return (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)


def _near_in(hashes_N, run, most):
  """Pairs of a run that are near, a bounded number of comparisons at a time."""
  if len(run) < 2:
    return
  step = max(1, _CHUNK // len(run))
  for first in range(0, len(run), step):
    part = run[first : first + step]
    distance = np.bitwise_count(hashes_N[part][:, None] ^ hashes_N[run][None])
    a, b = np.nonzero(distance <= most)
    later = b > a + first
    yield from zip(part[a[later]], run[b[later]], strict=True)
