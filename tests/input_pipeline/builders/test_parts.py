"""Lists in COCO's form: parts, and things by name."""

import numpy as np
import pytest

from input_pipeline.builders import registry
from miras_jax.errors import UserError
from tests.input_pipeline.builders import list_files
from tests.input_pipeline.builders.in_memory import (
  box,
  build_in_memory,
  masks,
  reasons,
  write_json,
)
from tests.input_pipeline.builders.list_files import EAR, HEAD, OTHER_EAR, SIZE


def built(name, root, split="train", **options):
  return build_in_memory(registry.make(name, **options), root, split)


def drawn(*places):
  return sum(box(*SIZE, *place) for place in places) > 0


def test_each_part_of_a_dog_is_a_conversation_of_its_own(tmp_path):
  records, errors = built("pascal_part", list_files.write_pascal_part(tmp_path)[0])
  assert errors == []
  assert [(r.id, r.image_id) for r in records] == [
    ("train/2008000002/0", "voc/2008_000002"),
    ("train/2008000002/2", "voc/2008_000002"),
    ("train/2008000002/3", "voc/2008_000002"),
    ("train/2010006086/1", "voc/2010_006086"),
  ]
  for record, place in zip(records, (EAR, HEAD, OTHER_EAR), strict=False):
    np.testing.assert_array_equal(masks(record)[0], drawn(place))


def test_a_part_is_worded_with_its_object(tmp_path):
  records, _ = built("pascal_part", list_files.write_pascal_part(tmp_path)[0])
  for record in records:
    [(name, _)] = record.targets
    assert name in ("dog ear", "the ear of the dog", "dog head", "the head of the dog")
    assert name in record.turns[0][1]


def test_parts_of_one_name_are_one_mask_when_asked_for(tmp_path):
  root, *_ = list_files.write_pascal_part(tmp_path)
  records, errors = built("pascal_part", root, united=True)
  assert errors == [] and len(records) == 3
  np.testing.assert_array_equal(masks(records[0])[0], drawn(EAR, OTHER_EAR))


def test_the_val_list_of_pascal_part_is_a_split(tmp_path):
  records, _ = built("pascal_part", list_files.write_pascal_part(tmp_path)[0], "val")
  assert [r.id for r in records] == ["val/2008000002/0"]


def test_each_bad_annotation_is_named_and_the_others_stay(tmp_path):
  root, path, content = list_files.write_pascal_part(tmp_path)
  good = content["annotations"]
  bad = [
    good[0] | {"category_id": 94},
    good[0] | {"image_id": 2011000001},
    good[0] | {"segmentation": list_files.rle(0, 0, 0, 0)},
    good[0] | {"segmentation": {"size": [20, 31], "counts": "!"}},
    {"id": 8, "image_id": 2008000002, "category_id": 7},
    "no object",
  ]
  write_json(path, content | {"annotations": [*good, *bad]})
  records, errors = built("pascal_part", root)
  assert len(records) == 4
  found = reasons(errors)
  assert {error.file for error in errors} == {"vlpart/pascal_part/train.json"}
  assert sorted(found) == [f"annotations/{i}" for i in range(4, 10)]
  assert "category_id 94 is none of `categories`" in found["annotations/4"]
  assert "its picture 2011000001 is none of `images`" in found["annotations/5"]
  assert found["annotations/6"] == "its mask is empty"
  assert found["annotations/7"].startswith("RLE")
  assert found["annotations/8"] == "has no 'segmentation'"
  assert found["annotations/9"] == "is a str, want an object"


def test_a_missing_picture_costs_its_annotations_and_no_others(tmp_path):
  root, path, _ = list_files.write_pascal_part(tmp_path)
  (path.parent / "VOCdevkit/VOC2010/JPEGImages/2010_006086.jpg").unlink()
  records, errors = built("pascal_part", root)
  assert len(records) == 3
  assert reasons(errors) == {
    "annotations/1": "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/2010_006086.jpg:"
    " no such file"
  }


def test_a_category_without_a_name_is_refused(tmp_path):
  root, path, content = list_files.write_pascal_part(tmp_path)
  write_json(path, content | {"categories": [{"id": 7, "name": " "}]})
  with pytest.raises(UserError, match="train.json:categories/0: name is empty"):
    built("pascal_part", root)


def test_a_list_that_breaks_off_ends_the_build(tmp_path):
  root, path, _ = list_files.write_pascal_part(tmp_path)
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(UserError, match="train.json:-: is not valid JSON"):
    built("pascal_part", root)


def test_a_list_without_annotations_is_named(tmp_path):
  root, path, content = list_files.write_pascal_part(tmp_path)
  write_json(path, {k: v for k, v in content.items() if k != "annotations"})
  with pytest.raises(UserError, match="train.json:-: holds no list at 'annotations'"):
    built("pascal_part", root)


def test_names_of_paco_lose_what_stands_in_brackets(tmp_path):
  records, errors = built("paco_lvis", list_files.write_paco(tmp_path))
  assert errors == []
  names = [r.targets[0][0] for r in records]
  assert names[:2] == ["trash_can", "car"]
  assert names[2] in ("car antenna", "the antenna of the car")


def test_paco_takes_the_folder_of_a_picture_from_its_name(tmp_path):
  records, _ = built("paco_lvis", list_files.write_paco(tmp_path), "test")
  assert [r.image_id for r in records] == [
    "coco/000000000139",
    "coco/000000000009",
    "coco/000000000009",
  ]


def test_a_name_with_the_number_of_another_picture_is_refused(tmp_path):
  root = list_files.write_paco(tmp_path)
  path = root / "vlpart/paco/annotations/paco_lvis_v1_train.json"
  path.write_text(path.read_text().replace('"id": 139', '"id": 140', 1))
  path.write_text(path.read_text().replace('"image_id": 139', '"image_id": 140'))
  records, errors = built("paco_lvis", root)
  assert len(records) == 2
  assert reasons(errors) == {
    "annotations/2": "picture 140 has the file 'val2017/000000000139.jpg' of another"
    " number"
  }


@pytest.mark.parametrize("year", ["2017", "2014"])
def test_all_things_of_a_name_are_one_mask_crowds_among_them(tmp_path, year):
  root, crowd_HW = list_files.write_coco_instances(tmp_path, year)
  records, errors = built("coco_instances", root, year=year)
  assert errors == []
  assert [(r.image_id, r.targets[0][0]) for r in records] == [
    ("coco/000000000025", "person"),
    ("coco/000000000009", "dog"),
    ("coco/000000000009", "person"),
  ]
  dogs = drawn((1, 1, 4, 4), (6, 6, 9, 9), (0, 20, 5, 25))
  np.testing.assert_array_equal(masks(records[1])[0], dogs)
  np.testing.assert_array_equal(masks(records[2])[0], crowd_HW)


def test_another_year_is_refused(tmp_path):
  with pytest.raises(UserError, match="--year=2015: want one of 2017, 2014"):
    registry.make("coco_instances", year="2015")
