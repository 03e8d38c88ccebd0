"""Shared-prefix rows: which conversations share one, and what such a row holds."""

import dataclasses
import itertools

import numpy as np
import pytest

from input_pipeline import packing
from input_pipeline.compact import Rows
from input_pipeline.conversation import encode_conversation
from input_pipeline.examples import DataConfig, Examples
from input_pipeline.mixture import mix
from input_pipeline.pipeline import make_pipeline
from input_pipeline.source import Size
from tests.input_pipeline.fakes import Source, turns

CFG = DataConfig(max_len=192, max_masks=4, sam_size=16, aux_size=8, num_image_tokens=4)
FREE = {"limit": 9, "max_len": 999, "max_masks": 99}


def sizes(count, **changes):
  return [Size(**{"prefix": 10, "talk": 20, "segs": 1} | changes)] * count


def test_conversations_on_one_image_share_a_row():
  rows = packing.group(["a", "b", "a", "b", "a"], sizes(5), **FREE)
  assert tuple(rows) == ((0, 2, 4), (1, 3))


@pytest.mark.parametrize(
  "limits", [{"limit": 2}, {"max_len": 59}, {"max_masks": 2}], ids=str
)
def test_a_full_row_makes_room_for_another(limits):
  rows = packing.group(["a"] * 5, sizes(5), **FREE | limits)
  assert tuple(rows) == ((0, 1), (2, 3), (4,))


def test_a_defective_record_and_one_without_image_stay_alone():
  measured = [*sizes(2), None, Size(0, 20, 0)]
  rows = packing.group(["a"] * 4, measured, **FREE)
  assert tuple(rows) == ((0, 1), (2,), (3,))


def test_every_record_is_in_one_row():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 9, 50)
  measured = [Size(5, int(n), int(n) % 3) for n in rng.integers(1, 40, 50)]
  rows = packing.group(images, measured, limit=3, max_len=60, max_masks=4)
  assert sorted(itertools.chain(*rows)) == list(range(50))


def test_a_joined_row_is_the_prefix_and_then_each_talk(tokenizer):
  alone = [encode_conversation(turns(i), tokenizer, num_image_tokens=4) for i in (1, 2)]
  row = packing.join(alone)
  cut = row.prefix_length
  parts = [alone[0].tokens_L, alone[1].tokens_L[cut:]]
  np.testing.assert_array_equal(row.tokens_L, np.concatenate(parts))
  ends = np.cumsum([cut, len(parts[0]) - cut, len(parts[1])])
  want_segments = np.repeat([1, 2, 3], np.diff(ends, prepend=0))
  np.testing.assert_array_equal(row.segments_L, want_segments)
  for k, one in enumerate(alone):
    own = row.segments_L == k + 2
    np.testing.assert_array_equal(row.positions_L[own], one.positions_L[cut:])
    np.testing.assert_array_equal(row.loss_mask_L[own], one.loss_mask_L[cut:])
  assert (row.tokens_L[row.seg_pos_K] == tokenizer.ids.seg).all()
  assert list(row.segments_L[row.seg_pos_K]) == [2, 3]


def test_conversations_of_another_prefix_do_not_join(tokenizer):
  row = encode_conversation(turns(0), tokenizer, num_image_tokens=4)
  other = encode_conversation(turns(0), tokenizer, num_image_tokens=5)
  with pytest.raises(ValueError, match="prefix"):
    packing.join([row, other])


class Packable(Source):
  """A Source whose records 0..2 are about one image, 3..5 about the next, ..."""

  def __init__(self, size, **options):
    super().__init__(size, **options)
    self.image_ids = tuple(f"{i // 3}.png" for i in range(size))

  def load(self, i):
    record = super().load(i)
    if i in self.bad:
      return record
    image = super().load(i - i % 3).image
    return dataclasses.replace(record, image=image, image_id=f"{i // 3}.png")

  def fingerprint(self):
    return ["fake", self.size]


def packed(size, **options):
  rows = [tuple(range(i, min(i + 3, size))) for i in range(0, size, 3)]
  return packing.PackedDataset(Packable(size, **options), Rows.of(rows))


def test_a_packed_example_holds_the_masks_of_all_its_conversations(tokenizer):
  example = Examples(packed(6), tokenizer, CFG)[1]
  alone = [Examples(Packable(6), tokenizer, CFG)[i] for i in (3, 4, 5)]
  assert list(example["seg_valid"]) == [1, 1, 1, 0]
  for k, one in enumerate(alone):
    np.testing.assert_array_equal(example["masks"][k], one["masks"][0])
  np.testing.assert_array_equal(example["image_sam"], alone[0]["image_sam"])


def test_a_defect_costs_its_own_conversation_only(tokenizer):
  lines = []
  source = packed(6, bad=(4,))
  pipeline = make_pipeline(
    source, tokenizer, CFG, batch_size=2, shuffle=False, repeat=False,
    report=lines.append,
  )  # fmt: skip
  batch = next(pipeline)
  assert lines == ["train.json:4: no such file (trains with weight zero)"]
  assert list(batch["seg_valid"].sum(1)) == [3, 2]
  assert pipeline.records(batch) == [0, 1, 2, 3, 4, 5] and pipeline.zero_weight == 1


def test_rows_of_a_mixture_count_their_records_through_all_sources(tokenizer):
  both = mix([packed(6), Packable(4)], [1, 1])
  assert [both.members(i) for i in (0, 1, 2, 5)] == [(0, 1, 2), (3, 4, 5), (6,), (9,)]
  example = Examples(both, tokenizer, CFG)[1]
  assert example["seg_valid"].sum() == 3
