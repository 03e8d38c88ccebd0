"""A sequence whose elements are made when they are asked for."""

from collections.abc import Callable, Sequence


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
