"""Sequences with an element for each record that take few bytes of memory or none.

A training process holds as many of them as it has records; arrays mapped from a file
take no memory at all.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from input_pipeline.source import Size


class LazySequence(Sequence):
  """`count` elements, element i is `make(i)`; takes no memory for each."""

  def __init__(self, count: int, make: Callable):
    self._count, self._make = count, make

  def __len__(self):
    return self._count

  def __getitem__(self, i):
    if isinstance(i, slice):
      picked = range(self._count)[i]
      return LazySequence(len(picked), lambda k: self._make(picked[k]))
    return self._make(range(self._count)[i])


class Sizes(Sequence):
  """Sizes of examples, None for a defective one. array: (N, 3) int32, -1 for None."""

  def __init__(self, array):
    self.array = array

  @classmethod
  def of(cls, sizes: Iterable[Size | None]) -> "Sizes":
    """Of any sizes, one after the other."""
    if isinstance(sizes, Sizes):
      return sizes
    rows = (number for size in sizes for number in size or (-1, -1, -1))
    return cls(np.fromiter(rows, np.int32).reshape(-1, 3))

  @property
  def lengths(self) -> np.ndarray:
    """Tokens of each sound example."""
    sound = self.array[self.array[:, 0] >= 0]
    return sound[:, 0] + sound[:, 1]

  def __len__(self):
    return len(self.array)

  def __getitem__(self, i):
    if isinstance(i, slice):
      return Sizes(self.array[i])
    size = self.array[i]
    return Size(*map(int, size)) if size[0] >= 0 else None


class Rows(Sequence):
  """Rows of record numbers. members: of all rows, (N,); ends: where each row ends."""

  def __init__(self, members, ends):
    self.members, self.ends = members, ends

  @classmethod
  def of(cls, rows: Iterable[Sequence[int]]) -> "Rows":
    """Of lists of record numbers."""
    rows = list(rows)
    members = np.fromiter((i for row in rows for i in row), np.int32)
    return cls(members, np.cumsum([len(row) for row in rows], dtype=np.int64))

  def counts(self) -> np.ndarray:
    """How many records each row has."""
    return np.diff(self.ends, prepend=0)

  def lengths(self, sizes: Sizes) -> np.ndarray:
    """Tokens of each row that has a sound record, sorted. A prefix counts once."""
    sizes_N3 = np.asarray(sizes.array)[self.members]
    row_N = np.repeat(np.arange(len(self)), self.counts())
    sound_N = sizes_N3[:, 0] >= 0
    talk = np.bincount(row_N[sound_N], sizes_N3[sound_N, 1], minlength=len(self))
    prefix = np.full(len(self), -1)
    np.maximum.at(prefix, row_N, sizes_N3[:, 0])
    return np.sort((prefix + talk)[prefix >= 0].astype(np.int64))

  def __len__(self):
    return len(self.ends)

  def __getitem__(self, i):
    i = range(len(self))[i]
    first = int(self.ends[i - 1]) if i else 0
    return tuple(map(int, self.members[first : int(self.ends[i])]))
