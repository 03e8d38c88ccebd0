"""What one run has prepared, the next run of a process finds; and nothing else does."""

import dataclasses

import numpy as np

from input_pipeline import prepared
from input_pipeline.examples import Examples
from tests.input_pipeline.fakes import CFG, Source


def test_what_is_prepared_alike_is_prepared_once(tokenizer):
  first, second = Source(3), Source(3)
  with prepared.shared():
    want = Examples(first, tokenizer, CFG, cache=True)[1]
    found = Examples(second, tokenizer, CFG, cache=True)[1]
  assert (first.loads, second.loads) == ([1], [])
  assert want.keys() == found.keys()
  for name, value in want.items():
    np.testing.assert_array_equal(found[name], value)


def test_other_shapes_or_data_are_prepared_on_their_own(tokenizer):
  longer = dataclasses.replace(CFG, max_len=128)
  with prepared.shared():
    assert len(Examples(Source(3), tokenizer, CFG, cache=True)[1]["tokens"]) == 96
    assert len(Examples(Source(3), tokenizer, longer, cache=True)[1]["tokens"]) == 128
    other = Source(4)
    Examples(other, tokenizer, CFG, cache=True)[1]
  assert other.loads == [1]


def test_nothing_is_shared_outside_or_without_a_cache(tokenizer):
  sources = [Source(3) for _ in range(3)]
  with prepared.shared():
    Examples(sources[0], tokenizer, CFG, cache=True)[1]
    Examples(sources[1], tokenizer, CFG)[1]
  Examples(sources[2], tokenizer, CFG, cache=True)[1]
  assert [source.loads for source in sources] == [[1]] * 3


def test_a_defect_that_is_known_is_reported_by_each_run(tokenizer):
  lines = []
  with prepared.shared():
    for _ in range(2):
      examples = Examples(
        Source(3, bad={1}), tokenizer, CFG, cache=True, report=lines.append
      )
      examples[1]
      assert list(examples.problems.by_index) == [1]
  assert len(lines) == 2 and lines[0] == lines[1]
