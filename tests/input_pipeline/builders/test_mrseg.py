"""MRSeg as published -> conversations of rounds; references become words."""

import numpy as np
import pytest

from input_pipeline.builders import registry
from input_pipeline.builders.folder import SourceFolder
from miras_jax.errors import UserError
from tests.input_pipeline.builders import mrseg_files as files
from tests.input_pipeline.builders.in_memory import (
  box,
  build_in_memory,
  masks,
  reasons,
)
from tests.input_pipeline.builders.mrseg_files import (
  COCO,
  HEIGHT,
  WIDTH,
  first,
  gpt,
  human,
  item,
  one_round,
  pointed,
)

MRSEG = registry.make("mrseg")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  return files.write_mrseg(tmp_path_factory.mktemp("mrseg"))


def built(source, name, split="train", **options):
  """{id: record} and errors of the lists of a name."""
  records, errors = build_in_memory(
    registry.make("mrseg", lists=name, **options), source, split
  )
  return {record.id: record for record in records}, errors


def test_rounds_keep_their_order_and_each_has_its_mask(source):
  records, errors = built(source, "mr_refcoco_")
  assert not errors
  record = records["mr_refcoco_train/0"]
  assert [text for role, text in record.turns if role == "assistant"] == [
    "[SEG].",
    "[SEG].",
    "Sure, [SEG].",
  ]
  for mask_HW, part in zip(
    masks(record), (files.MAN, files.CUP, files.HAND), strict=True
  ):
    np.testing.assert_array_equal(mask_HW, box(HEIGHT, WIDTH, *part))
  assert [name for name, _ in record.targets] == ["person", "mug handle", "object"]
  assert record.image_id == "coco/000000000009"


def test_a_reference_becomes_the_round_it_points_to(source):
  records, _ = built(source, "mr_refcoco_")
  asked = [text for role, text in records["mr_refcoco_train/0"].turns if role == "user"]
  assert asked[:2] == [
    "Segment a person.",
    "Segment the cup beside the object of round 1.",
  ]
  assert "round 1 and round 2" in asked[2]
  assert asked[2].endswith("Segment what joins them.")


def test_paths_are_repaired_as_by_the_loader(source):
  records, _ = built(source, "mr_refcoco_,mr_vg_")
  assert records["mr_refcoco_train/1"].image_id == "coco/000000000009"  # of val2014
  record = records["all_data_mix/mr_vg_train/0"]
  assert record.image_id == "vg/17"
  np.testing.assert_array_equal(masks(record)[0], box(HEIGHT, WIDTH, *files.HAND))


def test_a_list_of_val_takes_the_masks_of_val(source):
  records, _ = built(source, "mr_paco_", "val")
  np.testing.assert_array_equal(
    masks(records["mr_paco_val/0"])[0], box(HEIGHT, WIDTH, *files.CUP)
  )


def test_class_maps_and_reasonseg_give_masks_too(source):
  records, errors = built(source, "ade20k_,reason_seg_")
  assert not errors
  found = masks(records["ade20k_train/0"])[0]
  np.testing.assert_array_equal(found, box(HEIGHT, WIDTH, *files.CUP))
  assert masks(records["reason_seg_train/0"])[0].sum() == 13 * 17


def test_only_lists_of_several_rounds_are_read_by_default(source):
  records, errors = build_in_memory(MRSEG, source, "train")
  assert not errors
  assert {r.id.rpartition("/")[0] for r in records} == {
    "mr_refcoco_train",
    "all_data_mix/mr_vg_train",
  }
  assert MRSEG.splits(SourceFolder(source)) == ("train", "val")


def test_conversations_about_a_picture_are_one_unit(source):
  units = list(MRSEG.units(SourceFolder(source), "train"))
  assert [len(unit["items"]) for unit in units] == [2, 1]


ANSWER = gpt(f"[MASK-DECODE:{COCO}|refcoco|11]")
LATER = human(f"{pointed(COCO, 'refcoco', 12)} And the next?", 1)
BAD = [
  (item(first(COCO), ANSWER, LATER, ANSWER), "mask '12' of no earlier round"),
  (item(first(COCO), gpt("none")), "turn 1: has the tags none, want one MASK-DECODE"),
  (item(first(COCO), gpt(ANSWER["value"] * 2)), "MASK-DECODE, MASK-DECODE, want one"),
  (item(first(COCO), gpt(f"[SEG]{ANSWER['value']}")), "turn 1 holds [SEG]"),
  (item(first(COCO), gpt("[MASK-DECODE:a:b]")), "cannot read the tag 'a:b'"),
  (item(first(COCO)), "has 1 turns, want pairs"),
  (item(ANSWER, first(COCO)), "turn 0 is from 'gpt', want human"),
  (item(first("coco/train2014/b.jpg"), ANSWER), "is about several pictures"),
  (item(human(f"[IMAGE256:{COCO}]"), ANSWER), "is empty"),
  (one_round(COCO, "refcoco", 999), "mask refcoco|999 is in no list of annotations"),
  (one_round(COCO, "refcoco", 14), "mask refcoco|14: is empty"),
  (one_round(COCO, "lvis", 1), "needs annotations_folder/lvis/lvis_v1_train.json"),
  (one_round(COCO, "sam", 1), "data set 'sam' is not known"),
  (one_round("coco/train2014/gone.jpg", "refcoco", 11), "gone.jpg: no such file"),
  (one_round("../secret.jpg", "refcoco", 11), "leaves its folder"),
  (one_round(COCO, "ade20k", 4), "mask ade20k|4|coco/train2014/"),
  (one_round(COCO, "ade20k", "many"), "class 'many' of ade20k is no number"),
  (one_round(COCO, "reason_seg", ""), "000000000009.json: no such file"),
  ("text", "the entry is a str, want an object"),
]


def test_each_bad_conversation_is_named(tmp_path):
  files.write_mrseg(
    tmp_path, {"mr_x_train": [files.THREE_ROUNDS, *(i for i, _ in BAD)]}
  )
  records, errors = build_in_memory(MRSEG, tmp_path, "train")
  assert [r.id for r in records] == ["mr_x_train/0"]
  found = reasons(errors)
  assert sorted(found) == list(range(1, len(BAD) + 1))
  for i, (_, reason) in enumerate(BAD):
    assert reason in found[i + 1]


def test_without_lists_the_layout_is_told(tmp_path):
  with pytest.raises(UserError, match="berkeley-hipie/segllm(.|\n)*vg_masks_train_new"):
    build_in_memory(MRSEG, tmp_path, "train")
  with pytest.raises(UserError, match="lists= names no list"):
    registry.make("mrseg", lists=" , ")
