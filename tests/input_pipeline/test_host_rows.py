"""Rows without a mask come together in whole micro-batches; nothing else changes."""

import numpy as np
import pytest

from input_pipeline.host_rows import Grouping
from input_pipeline.mixture import mix
from tests.input_pipeline.fakes import Source, assert_equal, make, records, take

NUMBER = 4  # micro-batches
FREE = {1, 2, 5, 6, 7}  # examples without a mask


def micro_batches(rows):
  """As `training.step.micro_batches` cuts them."""
  return np.array(rows).reshape(-1, NUMBER).T.tolist()


def grouping(free=FREE, number=NUMBER):
  return Grouping([i in free for i in range(12)], number)


def test_as_many_micro_batches_as_can_be_are_without_masks():
  micro = micro_batches(grouping()(list(range(12))))
  without = [set(rows) <= FREE for rows in micro]
  assert without == [False, False, False, True]
  assert sorted(sum(micro, [])) == list(range(12))


def test_the_order_among_the_others_stays():
  rows = grouping()(list(range(12)))
  last = micro_batches(rows)[-1]
  assert [row for row in rows if row not in last] == [0, 1, 2, 3, 4, 8, 9, 10, 11]


@pytest.mark.parametrize("free", [set(), {3, 8}, set(range(12))])
def test_a_batch_that_gains_nothing_stays_as_it_is(free):
  assert grouping(free)(list(range(12))) == list(range(12))


def no_mask(tokenizer):
  return mix([Source(9), Source(7, answer="No.", targets=0)], [1, 1])


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("threads", [0, 2])
def test_grouped_batches_do_not_depend_on_hosts_or_threads(tokenizer, hosts, threads):
  source = no_mask(tokenizer)
  options = {"batch_size": 8, "grouping": Grouping(np.arange(16) >= 9, 2)}
  whole = take(make(source, tokenizer, **options), 3)
  for batch in whole:
    assert not batch["seg_valid"][1::2].any() and batch["seg_valid"][::2].any(1).all()
  parts = [
    make(source, tokenizer, host_index=h, host_count=hosts, num_threads=threads,
         **options)
    for h in range(hosts)
  ]  # fmt: skip
  for batch in whole:
    rows = [next(part) for part in parts]
    assert_equal([batch], [{k: np.concatenate([r[k] for r in rows]) for k in batch}])
  for part in parts:
    part.close()


def test_grouping_changes_the_order_inside_a_batch_alone(tokenizer):
  source = mix([Source(9), Source(7, answer="No.", targets=0)], [2, 3])
  options = {"batch_size": 8, "grouping": Grouping(np.arange(16) >= 9, 2)}
  plain = take(make(source, tokenizer, batch_size=8), 4)
  grouped = take(make(source, tokenizer, **options), 4)
  pairs = list(zip(map(rows_of, plain), map(rows_of, grouped), strict=True))
  assert all(sorted(one) == sorted(other) for one, other in pairs)
  assert any(one != other for one, other in pairs)


def rows_of(batch):
  return records([batch])
