"""PRIST-X as rows of a batch: several targets, parts, nothing, and edits of them."""

import collections

import numpy as np
import pytest

from input_pipeline import mask_canvas, mask_ops, packing, prist_x
from input_pipeline.builders import registry
from input_pipeline.compact import Rows
from input_pipeline.examples import DataConfig, Examples
from input_pipeline.prepare import trees
from input_pipeline.slots import relations
from tests.input_pipeline.builders.in_memory import build_in_memory
from tests.input_pipeline.fakes import Source

CFG = DataConfig(
  max_len=1500, max_masks=24, sam_size=64, aux_size=8, num_image_tokens=4,
  slot_side=64,
)  # fmt: skip


class Built(Source):
  """Records of a builder as a source."""

  def __init__(self, records):
    super().__init__(len(records))
    self.records = records
    self.image_ids = tuple(record.image_id for record in records)

  def load(self, i):
    return self.records[i]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  out = tmp_path_factory.mktemp("x")
  trees.generate(out, 12, 0, short=4)
  return out


@pytest.fixture(scope="module")
def talks(scenes):
  """(photograph, its talks) in the order of the records."""
  lines = (scenes / "trees" / "train.jsonl").read_bytes().splitlines()
  return [(photo, list(photo.talks.values())) for photo in map(prist_x.parse, lines)]


@pytest.fixture(scope="module")
def rows(scenes, talks, tokenizer):
  """An example for each photograph, all of its conversations in one row."""
  records, _ = build_in_memory(registry.make("prist_x"), scenes, "train")
  ends = np.cumsum([len(some) for _, some in talks])
  groups = [tuple(range(end - len(some), end)) for end, (_, some) in
            zip(ends, talks, strict=True)]  # fmt: skip
  packed = packing.PackedDataset(Built(records), Rows.of(groups))
  examples = Examples(packed, tokenizer, CFG)
  made = [examples[i] for i in range(len(groups))]
  assert not examples.problems
  return made


def test_every_mask_of_a_batch_is_the_union_of_the_things_it_is_of(rows, talks):
  seen = collections.Counter()
  for row, (photo, some) in zip(rows, talks, strict=True):
    masks = [mask for talk in some for mask in talk.masks]
    assert row["seg_valid"].sum() == len(masks)
    for mask_SS, (ids, edit, *_) in zip(row["masks"], masks, strict=False):
      wanted_HW = np.zeros((photo.height, photo.width), np.uint8)
      for i in ids:
        wanted_HW |= mask_ops.decode_rle(photo.things[i].rle)
      wanted_SS = mask_canvas.mask_to_canvas(wanted_HW, CFG.sam_size)
      np.testing.assert_array_equal(mask_SS, wanted_SS)
      seen.update([edit, photo.asks_for(ids)])
    assert not row["masks"][len(masks) :].any()
  assert set(seen) == {prist_x.NEW, *prist_x.EDITS, *prist_x.OF}


def test_an_edit_sees_the_mask_that_it_edits_and_none_of_another_talk(rows, talks):
  """As a model with a state does; what is the same once more is known as that."""
  repeated = 0
  for row, (_, some) in zip(rows, talks, strict=True):
    start = 0
    for talk in some:
      for k, (_, edit, of, _) in enumerate(talk.masks):
        seen_E = row["slot_seen"][start + k]
        np.testing.assert_array_equal(
          np.flatnonzero(seen_E), np.arange(start, start + k)
        )
        if edit == "same":
          assert row["slot_relation"][start + k, start + of] == relations.SAME
          repeated += 1
      start += len(talk.masks)
  assert repeated
