"""RefCOCO's family as published -> conversations; every defect has its line."""

import os
import pickle

import numpy as np
import pytest

from input_pipeline import image_ops, mask_ops
from input_pipeline.builders import registry
from input_pipeline.builders.folder import SourceFolder
from miras_jax.errors import UserError
from tests.input_pipeline.builders import refer_files as files
from tests.input_pipeline.builders.in_memory import (
  box,
  build_in_memory,
  masks,
  reasons,
  write_json,
  write_photo,
)
from tests.input_pipeline.builders.refer_files import HEIGHT, WIDTH, ref

REFCOCO = registry.make("refcoco")


def drawn(*parts):
  return np.maximum.reduce([box(HEIGHT, WIDTH, *part) for part in parts])


@pytest.fixture(scope="module")
def refcoco(tmp_path_factory):
  return files.write_refcoco(tmp_path_factory.mktemp("refcoco") / "refer_seg")


def test_each_sentence_is_a_conversation(refcoco):
  records, errors = build_in_memory(REFCOCO, refcoco, "train")
  assert not errors
  assert [r.id for r in records] == ["0/0", "0/1", "0/2", "2/20"]
  assert {r.image_id for r in records} == {"coco/000000000009"}
  assert [name for r in records for name, _ in r.targets] == [
    "man in red",
    "left man",
    "left man",
    "cup behind [SEG] the {post}",
  ]
  assert all(name in r.turns[0][1] for r in records for name, _ in r.targets)
  assert records[0].source == "refcoco"


def test_the_mask_is_what_was_annotated(refcoco):
  records, _ = build_in_memory(REFCOCO, refcoco, "train")
  np.testing.assert_array_equal(masks(records[0])[0], drawn(files.MAN))
  # Two polygons that overlap: their union, not their sum.
  united = drawn(files.LEFT_HALF, files.RIGHT_HALF)
  np.testing.assert_array_equal(masks(records[3])[0], united)


def test_splits_hold_what_their_expressions_say(refcoco):
  assert REFCOCO.splits(SourceFolder(refcoco)) == ("train", "val", "testA", "testB")
  counts = {
    split: len(build_in_memory(REFCOCO, refcoco, split)[0])
    for split in ("train", "val", "testA", "testB")
  }
  assert counts == {"train": 4, "val": 1, "testA": 1, "testB": 1}


def test_an_object_without_segmentation_has_an_empty_mask(refcoco):
  (record,), _ = build_in_memory(REFCOCO, refcoco, "testA")
  ((name, rle),) = record.targets
  assert (name, mask_ops.rle_area(rle)) == ("", 0)
  assert image_ops.decode_image(record.image).shape == (HEIGHT, WIDTH, 3)  # of a grey


def test_json_and_pickle_give_the_same(refcoco, tmp_path):
  other = files.write_refcoco(tmp_path / "refer_seg", form="json")
  for split in ("train", "val"):
    wanted, found = (build_in_memory(REFCOCO, f, split) for f in (refcoco, other))
    assert [(r.id, r.turns, r.targets) for r in wanted[0]] == [
      (r.id, r.turns, r.targets) for r in found[0]
    ]


def test_the_root_may_be_the_inner_folder_and_pictures_lie_one_higher(tmp_path):
  files.write_refcoco(tmp_path)
  images = tmp_path / "images/mscoco/images/train2014"
  images.rename(tmp_path / "images/mscoco/train2014")
  records, errors = build_in_memory(REFCOCO, tmp_path, "val")
  assert (len(records), errors) == (1, [])


def test_other_ways_to_split_read_their_own_list(tmp_path):
  for name, row in (("refcocog", "refcocog_google"), ("refcoco+", "refcoco+")):
    builder = registry.make(row)
    root = tmp_path / row
    files.write_refcoco(
      root, files.REFS[:2], name=name, split_by=builder.split_by, form="json"
    )
    assert len(build_in_memory(builder, root, "val")[0]) == 1


def test_each_bad_expression_is_named(tmp_path):
  long = ref(20, 101, 9, "train", "x" * 2000)
  bad = [
    ref(1, 999, 9, "train", "no such annotation"),
    ref(2, 101, 77, "train", "no such picture"),
    ref(3, 104, 9, "train", "annotation of another picture"),
    ref(4, 101, 9, "train", " "),
    ref(5, 101, 9, "train"),
    ref(6, 101, 9, "dev", "an unknown split"),
    ref(0, 101, 9, "train", "the same number again"),
    ref(8, "101", 9, "train", "a text as a number"),
    ref(9, 105, 25, "train", "half a point"),
    ["no object"],
    ref(11, 101, 9, "train", "same") | {"sentences": [{"sent": "no number"}]},
    ref(12, 101, 9, "train", "a") | {"split": 3},
    long,
  ]
  files.write_refcoco(tmp_path, [files.REFS[0], *bad], form="json")
  records, errors = build_in_memory(REFCOCO, tmp_path, "train")
  assert len(records) == 3
  file = "refcoco/instances.json"
  assert {error.file for error in errors} == {"refcoco/refs(unc).json"}
  assert reasons(errors) == {
    1: f"ann_id 999 is not in {file}",
    2: f"image_id 77 is not in {file}",
    3: "ann_id 104 is of image 30, the expression of image 9",
    4: "sent is empty",
    5: "sentences is an empty list",
    6: "split is 'dev', want one of train, val, testA, testB",
    7: "ref_id 0 is given twice",
    8: "ann_id is a str, want a whole number",
    9: "a polygon has 3 numbers, want pairs of x and y",
    10: "the entry is a list, want an object",
    11: "sent_id is missing, want a whole number",
    12: "split is a int, want a text",
    13: "sent has 2,000 characters, the limit is 1,024",
  }
  # What belongs to no split is told once.
  assert not build_in_memory(REFCOCO, tmp_path, "val")[1]


def test_a_picture_of_another_size_is_named(refcoco, tmp_path):
  files.write_refcoco(tmp_path, form="json")
  images = files.coco_images()
  images[0]["width"] += 1
  labels = files.instances(files.COCO_LABELS, images)
  write_json(tmp_path / "refcoco/instances.json", labels)
  _, errors = build_in_memory(REFCOCO, tmp_path, "train")
  assert [error.record for error in errors] == [0, 2]
  assert "is 30 pixels high and 40 wide, its annotations" in errors[0].reason


@pytest.mark.parametrize("stored", [(HEIGHT, WIDTH), (WIDTH, HEIGHT)])
def test_a_picture_is_turned_as_its_annotations_are(tmp_path, stored):
  files.write_refcoco(tmp_path)
  name = "images/mscoco/images/train2014/" + files.coco_name(30)
  write_photo(tmp_path / name, *stored, exif=6)
  (record,), errors = build_in_memory(REFCOCO, tmp_path, "val")
  assert not errors
  assert image_ops.decode_image(record.image).shape == (HEIGHT, WIDTH, 3)
  np.testing.assert_array_equal(masks(record)[0], drawn(files.MAN))


def test_a_pickle_that_calls_something_is_refused(tmp_path):
  class Evil:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "made"),)

  files.write_refcoco(tmp_path)
  (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps([Evil()], 2))
  with pytest.raises(UserError, match=r"refs\(unc\).p:-: its pickle holds .* GLOBAL"):
    build_in_memory(REFCOCO, tmp_path, "train")
  assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("gone", ["refs(unc).p", "instances.json", "pictures"])
def test_a_missing_part_names_home_and_layout(tmp_path, gone):
  files.write_refcoco(tmp_path)
  if gone == "pictures":
    (tmp_path / "images").rename(tmp_path / "elsewhere")
  else:
    (tmp_path / "refcoco" / gone).unlink()
  with pytest.raises(UserError, match="lichengunc/refer(.|\n)*train2014"):
    build_in_memory(REFCOCO, tmp_path, "train")


def test_refclef_joins_its_rles_and_repeats_unions_of_splits(tmp_path):
  builder = registry.make("refclef")
  files.write_refclef(tmp_path)
  found = {
    s: build_in_memory(builder, tmp_path, s)
    for s in builder.splits(SourceFolder(tmp_path))
  }
  ids = {split: [r.id for r in records] for split, (records, _) in found.items()}
  assert ids == {
    "train": ["1/10"],
    "val": [],
    "testA": ["0/0"],
    "testB": ["0/0"],
    "testC": ["2/20"],
  }
  (record,), errors = found["train"]
  assert record.image_id == "saiapr/2541"
  np.testing.assert_array_equal(masks(record)[0], drawn(files.MAN, files.RIGHT_HALF))
  assert reasons(errors) == {3: "images/saiapr_tc-12/00/images/107.jpg: no such file"}


def test_grefcoco_unites_its_objects_and_knows_none(tmp_path):
  builder = registry.make("grefcoco")
  files.write_grefcoco(tmp_path)
  records, errors = build_in_memory(builder, tmp_path, "train")
  by_id = {record.id: record for record in records}
  assert list(by_id) == ["0/0", "0/1", "1/10", "2/20", "3/30"]
  both = drawn(files.MAN, files.LEFT_HALF, files.RIGHT_HALF)
  np.testing.assert_array_equal(masks(by_id["0/1"])[0], both)
  assert [name for name, _ in by_id["0/1"].targets] == ["all the things"]
  assert [name for name, _ in by_id["2/20"].targets] == [""]
  np.testing.assert_array_equal(masks(by_id["3/30"])[0], drawn(files.MAN))  # no crowd
  assert reasons(errors) == {
    4: "each of its annotations is a crowd, which is no target here"
  }
  assert len(build_in_memory(builder, tmp_path, "testA")[0]) == 1


def test_grefcoco_may_give_each_object_its_own_mask(tmp_path):
  builder = registry.make("grefcoco", targets="each")
  files.write_grefcoco(tmp_path)
  records, _ = build_in_memory(builder, tmp_path, "train")
  assert [name for name, _ in records[0].targets] == ["person", "cup"]
  assert "[SEG] and [SEG]" in records[0].turns[1][1]
  np.testing.assert_array_equal(masks(records[0])[0], drawn(files.MAN))
  assert [len(record.targets) for record in records] == [2, 2, 1, 1, 1]
  with pytest.raises(UserError, match="targets='all' is not one of union, each"):
    registry.make("grefcoco", targets="all")


def test_grefcoco_names_numbers_that_contradict(tmp_path):
  refs = [
    ref(0, [], 9, "train", "a"),
    ref(1, [-1, 101], 9, "train", "b"),
    ref(2, None, 9, "train", "c"),
  ]
  files.write_grefcoco(tmp_path, refs)
  _, errors = build_in_memory(registry.make("grefcoco"), tmp_path, "train")
  assert reasons(errors) == {
    0: "ann_id is an empty list; [-1] states that nothing is meant",
    1: "ann_id [-1, 101] states both no object and an object",
    2: "ann_id is a NoneType, want a whole number",
  }
