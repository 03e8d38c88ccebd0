"""Edit turns of rendered conversations: their masks follow from those before."""

import numpy as np
import pytest

from input_pipeline.mask_ops import decode_rle
from input_pipeline.prepare import edits, synth
from input_pipeline.prist import read_dataset
from input_pipeline.slots import relations
from tests.input_pipeline.test_synth import _digest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """The data set without edits and with them."""
  root = tmp_path_factory.mktemp("edits")
  synth.generate(root / "plain", 60, 5)
  synth.generate(root / "edited", 60, 5, edits=1.0)
  return root / "plain", root / "edited"


def talks(folder):
  return [r for split in ("train", "val", "test") for r in read_dataset(folder, split)]


def test_pictures_and_turns_before_are_those_without_edits(folders):
  plain, edited = map(_digest, folders)
  pictures = [name for name in plain if name.startswith("images/")]
  assert pictures and all(plain[name] == edited[name] for name in pictures)
  pairs = list(zip(*map(talks, folders), strict=True))
  assert all(b.turns[: len(a.turns)] == a.turns for a, b in pairs)
  assert sum(len(b.turns) > len(a.turns) for a, b in pairs) > len(pairs) / 2


@pytest.mark.parametrize(
  "words, kinds",
  [
    ("Again: [SEG].", {"same"}),
    ("Both together: [SEG].", {"union", "whole"}),
    ("half: [SEG].", {"part"}),
    ("All of it: [SEG].", {"whole", "same"}),
    ("The other", {"sibling", "unrelated"}),
  ],
)
def test_masks_relate_as_the_words_say(folders, words, kinds):
  found = set()
  for record in talks(folders[1]):
    answers = [text for role, text in record.turns if role == "assistant"]
    segs = [text for text in answers for _ in range(text.count("[SEG]"))]
    masks = [decode_rle(rle) > 0 for _, rle in record.targets]
    for before, now, text in zip(masks, masks[1:], segs[1:], strict=False):
      if words in text:
        found.add(relations.RELATIONS[relations.relation(now, before)])
  assert found and found <= kinds


def test_a_half_lies_on_its_side_of_the_middle():
  square = [np.array([(0.0, 0), (8, 0), (8, 4), (0, 4)])]
  (left,) = edits.half(square, "left half")
  assert left[:, 0].max() == 4 and left[:, 1].max() == 4
  (lower,) = edits.half(square, "lower half")
  assert lower[:, 1].min() == 2


def test_a_share_of_0_asks_for_nothing_more(folders, tmp_path):
  synth.generate(tmp_path / "again", 60, 5, edits=0.0)
  assert _digest(tmp_path / "again") == _digest(folders[0])
