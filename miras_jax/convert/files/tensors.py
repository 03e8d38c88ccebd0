"""What the readers and writers of weight files share: shapes, names, bounded reads."""

import math
import os
from typing import Any, NamedTuple

import numpy as np

READ_BYTES = 64 << 20  # in one call of the operating system
MAX_NAME = 512


class TensorInfo(NamedTuple):
  """A tensor that was not read yet."""

  shape: tuple
  dtype: Any

  @property
  def nbytes(self):
    return math.prod(self.shape) * np.dtype(self.dtype).itemsize

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


def is_name(name):
  """Whether a tensor's name can stand in a message and a file."""
  return isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()


def read_into(file, start, array):
  """Fills a contiguous array from byte `start` of a file; OSError when it is short."""
  if not array.size:
    return
  view = memoryview(array.reshape(-1).view(np.uint8))
  done = 0
  while done < len(view):
    part = view[done : done + READ_BYTES]
    count = os.preadv(file.fileno(), [part], start + done)
    if not count:
      raise OSError(f"the file ends {len(view) - done:,} bytes too early")
    done += count


def as_bool(array):
  """A bool array of whose bytes each is 0 or 1; others unchanged."""
  return array.view(np.uint8) != 0 if array.dtype == np.bool_ else array
