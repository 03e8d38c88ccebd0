"""What is counted of the data before a run: once, by one process, and said aloud."""

import logging

import numpy as np
import pytest

from input_pipeline import packing
from input_pipeline.compact import LazySequence
from input_pipeline.source import Size, Source
from miras_jax.errors import UserError
from miras_jax.training import sizes


class Tokenizer:
  def fingerprint(self):
    return "t1"


class Counted(Source):
  """A source with the given sizes, an image a record; counts how often it is asked."""

  file = "train.json"

  def __init__(self, lengths):
    self.lengths, self.asked = lengths, 0
    self.image_ids = [str(i) for i in range(len(lengths))]

  def __len__(self):
    return len(self.lengths)

  def load(self, i):
    raise IndexError(i)

  def fingerprint(self):
    return self.lengths

  def sizes(self, tokenizer, text_options):
    self.asked += 1
    return tuple(None if n is None else Size(10, n - 10, 1) for n in self.lengths)


@pytest.fixture(autouse=True)
def heard(monkeypatch):
  monkeypatch.setattr(logging.getLogger("miras_jax"), "propagate", True)


def measure(lengths, folder=None):
  return sizes.measure(Counted(lengths), Tokenizer(), {}, folder)


def test_a_run_counts_its_records_once(tmp_path):
  first = measure([100, None, 120], tmp_path)
  again = measure([100, None, 120], tmp_path)
  assert list(again.sizes) == list(first.sizes) and first.source.asked == 1
  assert again.source.asked == 0


@pytest.mark.parametrize("text", ["[[1, 2", "[[1, 2, 3]]", "[1, 2, 3]", ""])
def test_a_damaged_count_is_made_again(tmp_path, text):
  whole = list(measure([100, 110, 120], tmp_path).sizes)
  (path,) = (tmp_path / "sizes").iterdir()
  path.write_text(text)
  assert list(measure([100, 110, 120], tmp_path).sizes) == whole


def test_other_data_are_counted_anew(tmp_path):
  measure([100, 110], tmp_path)
  assert measure([100, 111], tmp_path).source.asked == 1


def test_one_endless_turn_does_not_make_every_row_as_long(caplog):
  part = measure([100] * 150 + [160] + [30_000])
  assert sizes.room([part], 1, 2) == 160
  sizes.tell_cut([part], 160)
  assert "1 of 152 conversations are longer than a row of 160 tokens" in caplog.text


def test_rows_are_as_long_as_the_longest_that_is_no_outlier():
  assert sizes.room([measure([100] * 150 + [390])], 1, 2) == 392


def test_data_without_a_sound_record_are_refused():
  with pytest.raises(UserError, match="train.json: all 3 records are defective"):
    measure([None] * 3)


def test_many_defective_records_are_said_at_the_start(caplog):
  measure([100] * 89 + [None] * 11)
  assert "11 of 100 records are defective" in caplog.text
  caplog.clear()
  measure([100] * 90 + [None] * 10)
  assert caplog.text == ""


class Untouchable(Counted):
  """Its records may be counted, and none looked at."""

  def __init__(self, lengths):
    super().__init__(lengths)
    self.image_ids = LazySequence(len(lengths), self.touched)

  def touched(self, i):
    raise AssertionError(f"record {i} is looked at")

  def sizes(self, tokenizer, text_options):
    raise AssertionError("the records are counted again")


def test_a_later_start_looks_at_no_record(tmp_path):
  lengths = [100 + i % 7 for i in range(40)]
  limits = {"limit": 3, "max_len": 400, "max_masks": 3}
  first = measure(lengths, tmp_path)
  rows = packing.pack(first.source, first.sizes, grouped=first.grouped, **limits)
  room = sizes.room([first], 3, 3)
  source = Untouchable(lengths)
  again = sizes.measure(source, Tokenizer(), {}, tmp_path)
  packed = packing.pack(source, again.sizes, grouped=again.grouped, **limits)
  assert list(packed.rows) == list(rows.rows)
  assert sizes.room([again], 3, 3) == room


def test_what_a_run_keeps_of_its_records_is_mapped_from_files(tmp_path):
  measure([100] * 40, tmp_path)
  part = measure([100] * 40, tmp_path)
  rows = part.grouped(part.source, part.sizes, limit=2, max_len=400, max_masks=3)
  assert isinstance(part.sizes.array, np.memmap)
  assert isinstance(rows.members, np.memmap)
