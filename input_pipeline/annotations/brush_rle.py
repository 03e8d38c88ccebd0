"""Label Studio's brush strokes: run lengths packed bit by bit, of an RGBA picture.

Most significant bit first: 32 bits N, the number of values (4 H W); 5 bits, the size of
a value less 1; four times 4 bits, the sizes of a run's length less 1. Then runs: one
bit, 1 for a value that repeats; 2 bits, which of the four sizes; the length less 1;
then one value, or as many as the length says. The mask is where alpha is not 0.
"""

import numpy as np

MAX_BYTES = 64 * 2**20
MAX_RUNS = 2_000_000  # some seconds
# Written: values of 8 bits, lengths of these bits; a longer run is several.
_VALUE_BITS = 8
_LENGTH_BITS = np.array([4, 8, 12, 16])
_HEAD = np.array([_VALUE_BITS - 1, *(_LENGTH_BITS - 1)]), np.array([5, 4, 4, 4, 4])


def decode(data, height: int, width: int):
  """The `rle` of a brush, a list of bytes -> mask_HW uint8 of 0 or 1.

  Raises ValueError for one that is damaged or of another size.
  """
  values = _alpha(_bits(data), 4 * height * width)
  return (values.reshape(height, width) != 0).astype(np.uint8)


def encode(mask_HW) -> list[int]:
  """mask_HW of bool or 0/1 -> the `rle` of a brush: the four channels of a pixel are
  255 inside and 0 outside."""
  flat = np.asarray(mask_HW).reshape(-1) != 0
  starts_R = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
  lengths_R = 4 * np.diff(np.append(starts_R, flat.size))
  lengths_R, values_R = _split(lengths_R, 255 * flat[starts_R].astype(np.int64))
  choice_R = np.searchsorted(1 << _LENGTH_BITS, lengths_R)
  bits_R = _LENGTH_BITS[choice_R]
  runs_R = (4 | choice_R) << bits_R | (lengths_R - 1)  # a 1: the value repeats
  numbers = np.concatenate(
    [[4 * flat.size], _HEAD[0], runs_R << _VALUE_BITS | values_R]
  )
  sizes = np.concatenate([[32], _HEAD[1], 3 + bits_R + _VALUE_BITS])
  return np.packbits(_written(numbers, sizes)).tolist()


def _split(lengths_R, values_R):
  """Runs with those past the longest length cut in several."""
  longest = 1 << int(_LENGTH_BITS[-1])
  parts_R = -(-lengths_R // longest)
  lengths = np.full(parts_R.sum(), longest)
  lengths[np.cumsum(parts_R) - 1] = (lengths_R - 1) % longest + 1
  return lengths, np.repeat(values_R, parts_R)


def _written(numbers_N, sizes_N):
  """Each number with its size in bits -> the bits of all."""
  most = int(sizes_N.max())
  place_P = np.arange(most - 1, -1, -1)
  bits_NP = (numbers_N[:, None] >> place_P) & 1
  return bits_NP.astype(np.uint8)[place_P < sizes_N[:, None]]


def _bits(data):
  if not isinstance(data, list) or not data:
    raise ValueError("brush: rle is no list of bytes")
  if len(data) > MAX_BYTES:
    raise ValueError(f"brush: rle of {len(data):,} bytes, the limit is {MAX_BYTES:,}")
  if not all(type(byte) is int and 0 <= byte <= 255 for byte in data):
    raise ValueError("brush: rle holds something that is no byte")
  return _Bits(bytes(data))


class _Bits:
  """Reads numbers of any number of bits, one after the other."""

  def __init__(self, data):
    self._data, self._size, self.at = data, 8 * len(data), 0

  def take(self, count):
    end = self.at + count
    if end > self._size:
      raise ValueError("brush: rle breaks off")
    first, last = self.at // 8, (end + 7) // 8
    number = int.from_bytes(self._data[first:last], "big") >> (8 * last - end)
    self.at = end
    return number & ((1 << count) - 1)

  def take_many(self, number, size):
    """`number` values of `size` bits -> array."""
    end = self.at + number * size
    if end > self._size:
      raise ValueError("brush: rle breaks off")
    first, last = self.at // 8, (end + 7) // 8
    octets = np.frombuffer(self._data, np.uint8)[first:last]
    begin = self.at - 8 * first
    bits = np.unpackbits(octets)[begin : begin + number * size]
    self.at = end
    return bits.reshape(number, size).any(axis=1)


def _alpha(bits, wanted):
  """Which pixels have an alpha that is not 0: (H W,) bool."""
  count = bits.take(32)
  if count != wanted:
    raise ValueError(f"brush: rle of {count:,} values, the image has {wanted:,}")
  size = bits.take(5) + 1
  sizes = [bits.take(4) + 1 for _ in range(4)]
  out = np.zeros(count, bool)
  at = 0
  for _ in range(MAX_RUNS):
    if at == count:
      return out[3::4]
    repeats, length = bits.take(1), bits.take(sizes[bits.take(2)]) + 1
    if length > count - at:
      raise ValueError("brush: rle holds more values than the image")
    if repeats:
      out[at : at + length] = bits.take(size) != 0
    else:
      out[at : at + length] = bits.take_many(length, size)
    at += length
  raise ValueError(f"brush: rle of more than {MAX_RUNS:,} runs")
