"""Class maps: each class of a picture is a conversation, its mask all of its pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import image_ops
from input_pipeline.builders import registry
from miras_jax.errors import UserError
from tests.input_pipeline.builders import class_files
from tests.input_pipeline.builders.class_files import SIZE, halves, write_map
from tests.input_pipeline.builders.in_memory import (
  build_in_memory,
  masks,
  write_json,
  write_photo,
)


def built(name, root, split="train", **options):
  return build_in_memory(registry.make(name, **options), root, split)


def by_name(records):
  return {record.targets[0][0]: masks(record)[0] for record in records}


@pytest.mark.parametrize("table", [False, True])
def test_ade20k_classes_are_named_by_their_first_synonym(tmp_path, table):
  records, errors = built("ade20k", class_files.write_ade20k(tmp_path, table=table))
  assert errors == []
  assert [(r.id, r.image_id, r.targets[0][0]) for r in records] == [
    ("train/ADE_train_00000001/1", "ade20k/ADE_train_00000001", "wall"),
    ("train/ADE_train_00000002/2", "ade20k/ADE_train_00000002", "building"),
    ("train/ADE_train_00000002/150", "ade20k/ADE_train_00000002", "class 150"),
  ]


def test_ade20k_masks_are_the_drawn_pixels_and_other_is_no_target(tmp_path):
  records, _ = built("ade20k", class_files.write_ade20k(tmp_path))
  np.testing.assert_array_equal(masks(records[0])[0], halves(1, 0) == 1)
  np.testing.assert_array_equal(masks(records[1])[0], halves(150, 2) == 2)


def test_ade20k_asks_for_the_class_and_answers_with_its_mask(tmp_path):
  records, _ = built("ade20k", class_files.write_ade20k(tmp_path), "val")
  [(_, question), (_, answer)] = records[0].turns
  assert "sky" in question and "[SEG]" in answer and "{" not in question + answer


def test_a_greyscale_photograph_stays_as_published(tmp_path):
  records, _ = built("ade20k", class_files.write_ade20k(tmp_path))
  path = tmp_path / "ade20k/images/training/ADE_train_00000002.jpg"
  assert records[1].image == records[2].image == path.read_bytes()
  assert Image.open(io.BytesIO(records[1].image)).mode == "L"


def test_a_release_without_the_outer_folder_is_found(tmp_path):
  root = class_files.write_ade20k(tmp_path)
  assert len(built("ade20k", root / "ade20k")[0]) == 3


@pytest.mark.parametrize(
  "damage, file, reason",
  [
    ("no map", "{maps}.png", "no such file: the class map of"),
    ("no photo", "{photos}.jpg", "no such file: the photograph of"),
    ("size", "{maps}.png", "is 16x11 pixels, its photograph 16x12"),
    ("value", "{maps}.png", "holds the values [151], which are no class"),
    ("nothing", "{maps}.png", "shows no class"),
    ("colours", "{maps}.png", "is a PNG of 8 bits and colour type 2"),
    ("jpeg", "{maps}.png", "is no PNG"),
    ("cut map", "{maps}.png", "damaged or truncated PNG"),
    ("cut photo", "{maps}.png", "damaged or truncated JPEG"),
  ],
)
def test_a_defect_is_named_and_the_other_pictures_stay(tmp_path, damage, file, reason):
  root = class_files.write_ade20k(tmp_path)
  name = "training/ADE_train_00000001"
  photo = root / f"ade20k/images/{name}.jpg"
  map_path = root / f"ade20k/annotations/{name}.png"
  maps = {"size": halves(1, 0)[1:], "value": halves(1, 151), "nothing": halves(0, 0)}
  if damage in maps:
    write_map(map_path, maps[damage])
  if damage == "no map":
    map_path.unlink()
  if damage == "no photo":
    photo.unlink()
  if damage in ("colours", "jpeg"):
    kind = "PNG" if damage == "colours" else "JPEG"
    Image.new("RGB", SIZE[::-1]).save(map_path, kind)
  if damage.startswith("cut"):
    path = map_path if damage == "cut map" else photo
    path.write_bytes(path.read_bytes()[:-30])
  records, errors = built("ade20k", root)
  assert [r.targets[0][0] for r in records] == ["building", "class 150"]
  [error] = errors
  where = {"maps": f"ade20k/annotations/{name}", "photos": f"ade20k/images/{name}"}
  assert error.file == file.format(**where)
  assert reason in error.reason


def test_a_photograph_that_exif_turns_is_shown_as_its_map_was_drawn(tmp_path):
  root = class_files.write_ade20k(tmp_path)
  name = "training/ADE_train_00000001"
  height, width = SIZE
  write_photo(root / f"ade20k/images/{name}.jpg", width, height, exif=6)
  records, errors = built("ade20k", root)
  assert errors == []
  assert image_ops.decode_image(records[0].image).shape == (height, width, 3)


def test_names_of_another_number_are_refused(tmp_path):
  root = class_files.write_ade20k(tmp_path)
  write_json(root / "ade20k/ade20k_classes.json", class_files.ADE_NAMES[:149])
  with pytest.raises(UserError, match="ade20k_classes.json:-: holds 149 names"):
    built("ade20k", root)


def test_an_empty_folder_names_the_page_and_the_layout(tmp_path):
  with pytest.raises(UserError, match="(?s)ADE20K/ and lay.*images/training"):
    built("ade20k", tmp_path)


def test_the_value_of_cocostuff_is_the_category_less_one(tmp_path):
  records, errors = built("cocostuff", class_files.write_cocostuff(tmp_path))
  assert errors == []
  found = by_name(records)
  assert list(found) == ["person", "wood"]
  expected = halves(1, 0)
  expected[:3, :3] = 0
  np.testing.assert_array_equal(found["person"], expected)
  assert found["wood"].sum() == 9
  assert {r.image_id for r in records} == {"coco/000000000009"}


def test_names_with_a_hyphen_are_kept_when_asked_for(tmp_path):
  root = class_files.write_cocostuff(tmp_path)
  records, _ = built("cocostuff", root, hyphened=True)
  assert list(by_name(records)) == ["person", "wall-brick", "wood"]


def test_the_val_pictures_of_cocostuff_are_a_split(tmp_path):
  root = class_files.write_cocostuff(tmp_path)
  records, _ = built("cocostuff", root, "val")
  assert list(by_name(records)) == ["person", "bicycle"]
  assert records[0].image_id == "coco/000000000139"


def test_void_classes_of_mapillary_are_no_target(tmp_path):
  map_HW = class_files.write_mapillary(tmp_path)
  records, errors = built("mapillary", tmp_path)
  assert errors == []
  found = by_name(records)
  assert list(found) == ["person", "traffic sign"]
  np.testing.assert_array_equal(found["person"], map_HW == 1)
  assert records[0].image_id == "mapillary/aZ-_1"


def test_two_classes_of_one_readable_name_are_one_mask(tmp_path):
  map_HW = class_files.write_mapillary(tmp_path)
  records, _ = built("mapillary", tmp_path)
  signs = (map_HW == 2) | (map_HW == 3)
  np.testing.assert_array_equal(by_name(records)["traffic sign"], signs)


def test_mapillary_can_be_built_with_the_labels_of_version_1(tmp_path):
  class_files.write_mapillary(tmp_path)
  records, _ = built("mapillary", tmp_path, labels="v1.2")
  assert list(by_name(records)) == ["sky"]
  with pytest.raises(UserError, match="--labels=v3: want one of v2.0, v1.2"):
    registry.make("mapillary", labels="v3")


def test_a_photograph_of_more_than_eight_megapixels_is_read(tmp_path):
  class_files.write_mapillary(tmp_path, size=(2500, 3400))
  records, errors = built("mapillary", tmp_path)
  assert errors == [] and records[0].targets[0][1]["size"] == [2500, 3400]
