"""Sequences of many records in little memory say what plain ones say."""

import numpy as np

from input_pipeline.compact import LazySequence, Rows, Sizes
from input_pipeline.source import Size


def test_a_lazy_sequence_makes_only_what_is_asked_for():
  asked = []
  squares = LazySequence(10**9, lambda i: asked.append(i) or i * i)
  assert (squares[3], squares[-1], squares[5:9][1]) == (9, (10**9 - 1) ** 2, 36)
  assert asked == [3, 10**9 - 1, 6]


def test_sizes_come_back_as_they_were():
  sizes = [Size(3, 4, 1), None, Size(0, 9, 0)]
  kept = Sizes.of(sizes)
  assert list(kept) == sizes
  assert list(kept[1:]) == sizes[1:]
  assert list(kept.lengths) == [7, 9]


def test_a_row_is_as_long_as_one_prefix_and_all_its_talks():
  sizes = Sizes.of([Size(5, 10, 1), Size(5, 20, 1), None, None, Size(5, 1, 0)])
  rows = Rows.of([(0, 1, 2), (3,), (4,)])
  assert list(rows) == [(0, 1, 2), (3,), (4,)]
  np.testing.assert_array_equal(rows.lengths(sizes), [6, 35])  # row 1 is defective
