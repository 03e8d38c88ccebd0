"""COCO JSON -> regions."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from input_pipeline.annotations.coco_form import Coco
from tests.input_pipeline.annotations.drawn import (
  CAT,
  DOG,
  HAT,
  HEIGHT,
  WIDTH,
  assert_masks,
  defect,
  drawn,
  only,
  photo,
  read,
  splits,
  write_json,
  write_text,
)

NAMES = ("dog", "cat")


def flat(*polygons):
  return [[number for point in polygon for number in point] for polygon in polygons]


def thing(segmentation, category=1, image=1, **more):
  box = {"bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0}
  return {
    "image_id": image,
    "category_id": category,
    "segmentation": segmentation,
  } | box | more  # fmt: skip


def document(*annotations, images=(("a.jpg", {}),), first=1, above="animal"):
  return {
    "info": {},
    "licenses": [],
    "images": [
      {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} | more
      for i, (name, more) in enumerate(images, 1)
    ],
    "annotations": [{"id": 10 + i} | row for i, row in enumerate(annotations)],
    "categories": [
      {"id": i, "name": name, "supercategory": above}
      for i, name in enumerate(NAMES, first)
    ],
  }


def make(folder, *annotations, **options):
  photo(folder / "images/a.jpg")
  write_json(folder / "labels.coco.json", document(*annotations, **options))
  return folder


def uncompressed(mask_HW):
  """Run lengths down the columns, zeros first."""
  runs, value = [0], 0
  for pixel in mask_HW.T.reshape(-1).tolist():
    if pixel != value:
      runs.append(0)
      value = pixel
    runs[-1] += 1
  return {"size": list(mask_HW.shape), "counts": runs}


def test_polygons_of_one_annotation_are_one_thing(tmp_path):
  make(tmp_path, thing(flat(DOG, CAT)), thing(flat(HAT), 2))
  found = only(Coco(), tmp_path)
  assert_masks(found, ("dog", drawn(DOG, CAT)), ("cat", drawn(HAT)))
  assert found.instances


def test_both_run_length_codes(tmp_path):
  mask_HW = drawn(DOG) - drawn(HAT)
  packed = coco_mask.encode(np.asfortranarray(mask_HW))
  packed = {"size": packed["size"], "counts": packed["counts"].decode()}
  make(tmp_path, thing(packed), thing(uncompressed(mask_HW), 2))
  assert_masks(only(Coco(), tmp_path), ("dog", mask_HW), ("cat", mask_HW))


def test_a_crowd_is_one(tmp_path):
  make(tmp_path, thing(uncompressed(drawn(DOG)), iscrowd=1), thing(flat(CAT)))
  assert [r.crowd for r in only(Coco(), tmp_path).regions] == [True, False]


def test_masks_with_holes_of_supervision_are_no_crowds(tmp_path):
  holed = uncompressed(drawn(DOG) - drawn(HAT))
  make(tmp_path, thing(holed, iscrowd=1), above="common-objects")
  assert [r.crowd for r in only(Coco(), tmp_path).regions] == [False]


def test_category_numbers_from_zero(tmp_path):
  make(tmp_path, thing(flat(DOG), 0), thing(flat(CAT), 1), first=0)
  assert_masks(only(Coco(), tmp_path), ("dog", drawn(DOG)), ("cat", drawn(CAT)))


def test_roboflow_has_a_file_a_split_and_a_root_that_is_no_name(tmp_path):
  for split in ("train", "valid", "test"):
    photo(tmp_path / split / "a_jpg.rf.0f3c.jpg")
    content = document(thing(flat(DOG), 1), images=[("a_jpg.rf.0f3c.jpg", {})])
    root = {"id": 0, "name": "animal", "supercategory": "none"}
    content["categories"].insert(0, root)
    write_json(tmp_path / split / "_annotations.coco.json", content)
  photos, lines = read(Coco(), tmp_path)
  assert not lines
  assert sorted(splits(Coco(), tmp_path).values()) == ["test", "train", "val"]
  assert photos["valid/a_jpg.rf.0f3c.jpg"].complete == {"dog", "cat"}


def test_the_folder_as_published(tmp_path):
  photo(tmp_path / "val2017/000000000139.jpg")
  content = document(thing(flat(DOG)), images=[("000000000139.jpg", {})])
  write_json(tmp_path / "annotations/instances_val2017.json", content)
  write_json(tmp_path / "annotations/captions_val2017.json", content)
  assert_masks(only(Coco(), tmp_path), ("dog", drawn(DOG)))
  assert splits(Coco(), tmp_path) == {"val2017/000000000139.jpg": "val"}


def test_a_photograph_without_annotations_shows_none_of_the_names(tmp_path):
  make(tmp_path)
  found = only(Coco(), tmp_path)
  assert not found.regions and found.complete == {"dog", "cat"}


def test_of_a_federated_file_only_what_it_lists_is_absent(tmp_path):
  more = {"neg_category_ids": [2], "not_exhaustive_category_ids": []}
  make(tmp_path, images=[("a.jpg", more)])
  assert only(Coco(), tmp_path).complete == {"cat"}


@pytest.mark.parametrize("segmentation", [[], None, flat(((0, 0), (5, 5)))])
def test_a_box_without_a_mask_is_refused(tmp_path, segmentation):
  make(tmp_path, thing(segmentation))
  line = defect(Coco(), tmp_path)
  assert line.startswith("labels.coco.json:images/a.jpg: annotation 10: ")
  assert "is a box" in line


def test_a_size_that_is_not_the_photographs_is_refused(tmp_path):
  make(tmp_path, images=[("a.jpg", {"height": 31})])
  assert "is for an image of 40x31 pixels, the image has 40x30" in defect(
    Coco(), tmp_path
  )


def test_a_turned_photograph_has_its_labels_where_it_is_shown(tmp_path):
  make(tmp_path, thing(flat(DOG)))
  photo(tmp_path / "images/a.jpg", height=WIDTH, width=HEIGHT, turn=6)
  assert_masks(only(Coco(), tmp_path), ("dog", drawn(DOG)))


def test_a_code_of_another_size_is_refused(tmp_path):
  make(tmp_path, thing(uncompressed(drawn(DOG).T)))
  assert "is for an image of 30x40 pixels" in defect(Coco(), tmp_path)


@pytest.mark.parametrize("counts", [None, True, 5, "\x7f", [1.5], [[1]], {"a": 1}])
def test_a_damaged_code_is_refused(tmp_path, counts):
  make(tmp_path, thing({"size": [HEIGHT, WIDTH], "counts": counts}))
  assert "annotation 10: RLE" in defect(Coco(), tmp_path)


def test_a_code_that_would_fill_the_memory_is_refused(tmp_path):
  bomb = {"size": [HEIGHT, WIDTH], "counts": [2**39, 2**39]}
  make(tmp_path, thing(bomb))
  assert "runs do not add up" in defect(Coco(), tmp_path)


def test_normalised_coordinates_are_refused(tmp_path):
  make(tmp_path, thing([[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]))
  assert "they are normalised, want pixels" in defect(Coco(), tmp_path)


def test_an_unknown_category_is_refused(tmp_path):
  make(tmp_path, thing(flat(DOG), 7))
  assert "category_id 7 is no category" in defect(Coco(), tmp_path)


def test_annotations_of_no_image_and_images_without_a_file_are_named(tmp_path):
  images = [("a.jpg", {}), ("b.jpg", {})]
  make(tmp_path, thing(flat(DOG)), thing(flat(DOG), image=9), images=images)
  photos, lines = read(Coco(), tmp_path)
  assert list(photos) == ["images/a.jpg"]
  assert lines == [
    "labels.coco.json:image 2: file_name 'b.jpg': no such photograph",
    "labels.coco.json:annotation 11: image_id 9 is none of the images",
  ]


def test_a_file_that_breaks_off_is_named(tmp_path):
  make(tmp_path, thing(flat(DOG)))
  file = tmp_path / "labels.coco.json"
  write_text(file, file.read_text()[:-150])
  assert defect(Coco(), tmp_path).startswith("labels.coco.json:-: is not valid JSON")


def test_points_without_area_are_dropped_and_said(tmp_path):
  make(tmp_path, thing(flat(DOG)), thing([[9, 9, 12, 12, 15, 15]]))
  found = only(Coco(), tmp_path)
  assert_masks(found, ("dog", drawn(DOG)))
  assert found.notes[0].endswith("annotation 11 is dropped: its points enclose no area")


@pytest.mark.parametrize("key", ["part_of", "obj_ann_id"])
def test_a_part_names_the_annotation_that_it_is_a_part_of(tmp_path, key):
  """As PACO's lists, where an object names itself."""
  whole = thing(flat(DOG), **({key: 11} if key == "obj_ann_id" else {}))
  make(tmp_path, thing(flat(HAT), category=2, **{key: 11}), whole)
  part, found = only(Coco(), tmp_path).regions
  assert (part.part_of, found.part_of) == (1, None)


def test_a_part_of_what_is_not_there_is_noted_and_stays_a_thing(tmp_path):
  make(tmp_path, thing(flat(HAT), part_of=77))
  found = only(Coco(), tmp_path)
  assert found.regions[0].part_of is None
  assert "annotation 10 is a part of 77, which is not in this image" in found.notes[0]
