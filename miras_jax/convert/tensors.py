"""What the readers of weight files share: shapes, bounded reads, plain copies."""

import os
from typing import Any, NamedTuple

import numpy as np


class TensorInfo(NamedTuple):
  """A tensor that was not read yet."""

  shape: tuple
  dtype: Any

  @property
  def nbytes(self):
    count = 1
    for n in self.shape:
      count *= n
    return count * np.dtype(self.dtype).itemsize

  def __str__(self):
    return f"{np.dtype(self.dtype).name}{list(self.shape)}"


class Closing:
  """A reader with an open `_file`, usable as a context manager."""

  def close(self):
    if self._file is not None:
      self._file.close()
      self._file = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def allocate(shape, dtype):
  return np.empty(shape, dtype)


def read_into(file, start, array):
  """Fills a contiguous array from byte `start` of a file; OSError when it is short."""
  left = memoryview(array.reshape(-1).view(np.uint8)) if array.size else memoryview(b"")
  total, done = len(left), 0
  while done < total:
    count = os.preadv(file.fileno(), [left[done : done + (64 << 20)]], start + done)
    if not count:
      raise OSError(f"ends {total - done:,} bytes before the end of the tensor")
    done += count
