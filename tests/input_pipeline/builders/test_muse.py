"""MUSE and MMR as published -> conversations with several masks in one answer."""

import numpy as np
import pytest

from input_pipeline.builders import registry
from input_pipeline.builders.folder import SourceFolder
from miras_jax.errors import UserError
from tests.input_pipeline.builders import muse_files as files
from tests.input_pipeline.builders.in_memory import (
  box,
  build_in_memory,
  masks,
  reasons,
  write_json,
)
from tests.input_pipeline.builders.muse_files import (
  CAT_TARGET,
  DOG_TARGET,
  HEIGHT,
  WIDTH,
  item,
)

MUSE = registry.make("muse")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return files.write_muse(tmp_path_factory.mktemp("muse"))


def test_each_question_is_a_conversation_with_its_masks_in_order(source):
  records, errors = build_in_memory(MUSE, source, "train")
  assert not errors
  by_id = {record.id: record for record in records}
  assert list(by_id) == ["0/0", "0/1", "1/0", "2/0"]
  first = by_id["0/0"]
  assert first.turns[0][1].startswith("Who could chase whom? ")
  assert first.turns[1][1] == "The dog [SEG] could chase the cat [SEG]."
  for mask_HW, part in zip(masks(first), (files.DOG, files.CAT), strict=True):
    np.testing.assert_array_equal(mask_HW, box(HEIGHT, WIDTH, *part))


def test_an_answer_without_a_text_is_written(source):
  records, _ = build_in_memory(MUSE, source, "train")
  by_id = {record.id: record for record in records}
  assert by_id["0/1"].turns[1][1].count("[SEG]") == 1
  assert "[SEG], [SEG] and [SEG]" in by_id["1/0"].turns[1][1]
  names = [name for name, _ in by_id["1/0"].targets]
  assert names[::2] == ["cat", "cat"]  # of "cat_(animal)"
  assert names[1] in ("the running dog", "dog")


def test_nine_of_ten_targets_keep_their_rephrased_name(tmp_path):
  files.write_muse(tmp_path, [item(["?"] * 300, [[DOG_TARGET]] * 300)])
  records, _ = build_in_memory(MUSE, tmp_path, "train")
  names = [record.targets[0][0] for record in records]
  assert set(names) == {"the running dog", "dog"}
  assert 0.85 < names.count("the running dog") / len(names) < 0.95


def test_pictures_of_both_years_have_the_ids_of_coco(source):
  records, _ = build_in_memory(MUSE, source, "train")
  ids = {record.id: record.image_id for record in records}
  assert ids["0/0"] == ids["1/0"] == "coco/000000000009"
  assert ids["2/0"] == "coco/000000000025"


def test_conversations_about_a_picture_are_one_unit(source):
  units = list(MUSE.units(SourceFolder(source), "train"))
  assert [len(unit["items"]) for unit in units] == [2, 1]


def test_splits_are_the_lists_that_lie_there(source):
  assert MUSE.splits(SourceFolder(source)) == ("train", "test_less")


def test_train2017_stands_in_for_train2014(tmp_path):
  files.write_muse(tmp_path, pictures="coco")
  old = tmp_path / "coco/train2014/COCO_train2014_000000000009.jpg"
  old.rename(tmp_path / "coco/train2017/000000000009.jpg")
  records, errors = build_in_memory(MUSE, tmp_path, "train")
  assert (len(records), errors) == (4, [])


def test_each_bad_question_is_named_and_the_good_ones_stay(tmp_path):
  empty = DOG_TARGET | {"segmentation": []}
  nameless = {"segmentation": CAT_TARGET["segmentation"]}
  two, dog = [DOG_TARGET, CAT_TARGET], [DOG_TARGET]
  items = [
    item(["a", "b"], [two, dog], ["only {seg}", "good {seg}"]),
    item(["a"], [dog, dog]),
    item(["a"], [dog], ["x {seg}", "y {seg}"]),
    item(["a"], [[]]),
    item(["a"], [dog], ["{seg} is [SEG]"]),
    item(["a"], [[empty]]),
    item(["a"], [[nameless]]),
    item([" "], [dog]),
    item(["a"], [dog], file_name=None),
    item(["a"], [dog], file_name="COCO_train2014_000000000077.jpg"),
    item(["a"], [dog], height=HEIGHT + 1),
    "text",
    item(["a"], [dog], file_name="../../secret.jpg"),
    item(["a"], [dog], file_name="a\0.jpg"),
    item(["a"], [[DOG_TARGET | {"segmentation": {"size": [30, 40], "counts": 7}}]]),
  ]
  files.write_muse(tmp_path, items)
  records, errors = build_in_memory(MUSE, tmp_path, "train")
  assert [r.id for r in records] == ["0/1"]
  folder = "refer_seg/images/mscoco/images/train2014"
  assert reasons(errors) == {
    0: "question 0: its text holds 1 {seg} for 2 targets",
    1: "1 questions but 2 answers",
    2: "1 questions but 2 text_answers",
    3: "question 0: has no target",
    4: "question 0: text_answers holds [SEG], which is no text in an answer",
    5: "question 0: target 0 (dog): its mask is empty",
    6: "question 0: category_name is missing, want a text",
    7: "question 0: question is empty",
    8: "has neither file_name nor coco_url",
    9: f"{folder}/COCO_train2014_000000000077.jpg: no such file",
    10: (
      f"{folder}/COCO_train2014_000000000009.jpg: is 30 pixels high and 40 wide, its"
      " annotations are for 31 and 40"
    ),
    11: "the entry is a str, want an object",
    12: "'refer_seg/images/mscoco/images/../../secret.jpg' leaves its folder",
    13: (
      "'refer_seg/images/mscoco/images/train2014/a\\x00.jpg' contains a NUL character"
    ),
    14: "question 0: target 0: RLE counts are a int",
  }


def test_mmr_joins_objects_and_parts(tmp_path):
  builder = registry.make("mmr")
  files.write_mmr(tmp_path)
  (record,), errors = build_in_memory(builder, tmp_path, "test_mixed")
  assert not errors
  assert record.turns[1][1] == "The dog [SEG] wags its tail [SEG]."
  assert [name for name, _ in record.targets] == ["dog", "dog tail"]
  assert record.image_id == "coco/000000000025"
  np.testing.assert_array_equal(masks(record)[1], box(HEIGHT, WIDTH, *files.TAIL))


def test_without_a_list_the_layout_is_told(tmp_path):
  with pytest.raises(UserError, match="MaverickRen/PixelLM(.|\n)*train2014"):
    build_in_memory(MUSE, tmp_path, "train")
  write_json(tmp_path / "muse/muse_val.json", [])
  with pytest.raises(UserError, match="muse_val.json:-: holds no list of entries"):
    build_in_memory(MUSE, tmp_path, "val")
