"""Which examples one host reads: its rows of every global batch.

Global batch number g is examples g*B .. g*B+B-1 of the order, and host h of H has its
rows h*B/H .. (h+1)*B/H-1.

Where a batch is cut into micro-batches, `Grouping` changes the order of the rows inside
a batch, so that those without a mask come together: a micro-batch of only such rows
costs no mask decoding (training/objective.py).
"""

import sys
from collections.abc import Sequence

import numpy as np


class HostRows:
  """Random access: number of a row of this host, counted from `start` -> example.

  order: Order. start: the place of the first batch. grouping: Grouping or None.
  """

  def __init__(self, order, start, batch_size, host_index, host_count, grouping=None):
    self._order = order
    self._start = start
    self._batch_size = batch_size
    self._host_batch = batch_size // host_count
    self._first = host_index * self._host_batch
    self._grouping = grouping
    self._batches = {}  # a few; replaced, never changed, because of threads

  def __len__(self):
    left = max(0, len(self._order) - self._start)
    batches = min(-(-left // self._batch_size), sys.maxsize // self._batch_size)
    return batches * self._host_batch

  def __getitem__(self, i):
    batch, row = divmod(i, self._host_batch)
    if self._grouping is None:
      return self._order[self._start + batch * self._batch_size + self._first + row]
    return self._grouped(batch)[self._first + row]

  def _grouped(self, batch):
    """The examples of a global batch, as they are grouped."""
    rows = self._batches.get(batch)
    if rows is None:
      first = self._start + batch * self._batch_size
      rows = self._grouping([self._order[first + r] for r in range(self._batch_size)])
      near = {b: kept for b, kept in self._batches.items() if abs(b - batch) < 4}
      self._batches = near | {batch: rows}
    return rows


class Grouping:
  """Puts the rows of a batch that have no mask into micro-batches of their own.

  Row r of a batch is in micro-batch r % `number` (`train_step.micro_batches`), whatever
  the hosts and devices are. As many micro-batches as can be filled with rows without a
  mask are, the last ones; where that is none or all, the batch stays as it is.

  has_no_mask: for each example whether it surely has none.
  """

  def __init__(self, has_no_mask: Sequence[bool], number: int):
    self._has_no_mask = has_no_mask
    self._number = number

  def __call__(self, examples: list[int]) -> list[int]:
    free = np.array([bool(self._has_no_mask[i]) for i in examples])
    size = len(examples) // self._number  # rows of a micro-batch
    whole = int(free.sum()) // size * size
    if whole in (0, len(examples)):
      return examples
    last = np.flatnonzero(free)[-whole:]
    first = np.setdiff1d(np.arange(len(examples)), last)
    rows = np.empty(len(examples), np.int64)
    slots = np.arange(len(examples)).reshape(size, self._number)
    masked = self._number - whole // size  # micro-batches with masks
    rows[slots[:, :masked].ravel()] = first
    rows[slots[:, masked:].ravel()] = last
    return [examples[r] for r in rows]
