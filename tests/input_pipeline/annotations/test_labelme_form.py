"""labelme folders -> regions."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline.annotations.labelme_form import Labelme
from input_pipeline.mask_ops import decode_rle
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


def shape(label, points, kind="polygon", group=None, **more):
  return {
    "label": label,
    "points": [list(point) for point in points],
    "group_id": group,
    "description": "",
    "shape_type": kind,
    "flags": {},
    "mask": None,
  } | more


def write(path, *shapes, image="a.jpg", height=HEIGHT, width=WIDTH):
  document = {
    "version": "5.5.0",
    "flags": {},
    "shapes": list(shapes),
    "imagePath": image,
    "imageData": None,
    "imageHeight": height,
    "imageWidth": width,
  }
  write_json(path, document)


def make(folder, *shapes, **options):
  photo(folder / "a.jpg")
  write(folder / "a.json", *shapes, **options)
  return folder


def test_shapes_without_a_group_are_things_of_their_own(tmp_path):
  make(tmp_path, shape("dog", DOG), shape("dog", CAT))
  assert_masks(only(Labelme(), tmp_path), ("dog", drawn(DOG)), ("dog", drawn(CAT)))


def test_shapes_of_one_label_and_group_are_one_thing(tmp_path):
  make(tmp_path, shape("dog", DOG, group=1), shape("dog", CAT, group=1))
  assert_masks(only(Labelme(), tmp_path), ("dog", drawn(DOG, CAT)))


def test_shapes_of_other_labels_in_a_group_are_other_things(tmp_path):
  make(tmp_path, shape("dog", DOG, group=1), shape("cat", CAT, group=1))
  assert_masks(only(Labelme(), tmp_path), ("dog", drawn(DOG)), ("cat", drawn(CAT)))


def test_a_later_shape_takes_nothing_from_an_earlier_one(tmp_path):
  make(tmp_path, shape("dog", DOG), shape("hat", HAT))
  assert_masks(only(Labelme(), tmp_path), ("dog", drawn(DOG)), ("hat", drawn(HAT)))


def ring():
  """The dog without the hat, whose outline stays."""
  hole_HW = drawn(HAT)
  hole_HW[7:10, 7:10] = 2
  return drawn(DOG) * (hole_HW != 2)


@pytest.mark.parametrize(
  "hole",
  [
    shape("dog", HAT, group=1),
    shape("hole", HAT, group=1),
    shape("dog", HAT, group=1, description="hole"),
    shape("dog", HAT, group=1, flags={"hole": True}),
  ],
)
def test_a_hole_by_place_label_description_or_flag(tmp_path, hole):
  make(tmp_path, hole, shape("dog", DOG, group=1))
  assert_masks(only(Labelme(), tmp_path), ("dog", ring()))


def box(left, top, right, bottom):
  return ((left, top), (right, top), (right, bottom), (left, bottom))


def test_an_island_in_a_hole_belongs_to_the_thing(tmp_path):
  outer, hole, island = box(2, 2, 38, 28), box(6, 6, 30, 24), box(12, 12, 20, 18)
  make(tmp_path, *[shape("dog", p, group=1) for p in (hole, island, outer)])
  wanted_HW = drawn(outer)
  wanted_HW[7:24, 7:30] = 0
  wanted_HW |= drawn(island)
  assert_masks(only(Labelme(), tmp_path), ("dog", wanted_HW))


def test_a_part_that_touches_the_outline_is_no_hole(tmp_path):
  part = ((3, 4), (8, 4), (8, 9), (3, 9))
  make(tmp_path, shape("dog", DOG, group=1), shape("dog", part, group=1))
  assert_masks(only(Labelme(), tmp_path), ("dog", drawn(DOG)))


def test_a_shape_given_twice_is_no_hole(tmp_path):
  make(tmp_path, shape("dog", DOG, group=1), shape("dog", DOG, group=1))
  assert_masks(only(Labelme(), tmp_path), ("dog", drawn(DOG)))


def test_a_hole_without_a_group_is_a_name_like_any_other(tmp_path):
  make(tmp_path, shape("road", DOG), shape("hole", HAT))
  assert_masks(only(Labelme(), tmp_path), ("road", drawn(DOG)), ("hole", drawn(HAT)))


def test_a_marked_hole_without_a_group_is_refused(tmp_path):
  make(tmp_path, shape("dog", DOG), shape("dog", HAT, flags={"hole": True}))
  line = defect(Labelme(), tmp_path)
  assert line.startswith("a.json:-: shape 1 ('dog') is marked as a hole and has no")


def test_mask_and_oriented_rectangle(tmp_path):
  crop = drawn(((0, 0), (4, 0), (4, 6)), height=7, width=5)
  buffer = io.BytesIO()
  Image.fromarray(crop.astype(bool)).save(buffer, "PNG")
  text = base64.b64encode(buffer.getvalue()).decode()
  make(
    tmp_path,
    shape("leaf", ((2, 3), (6, 9)), "mask", mask=text),
    shape("book", CAT + ((20, 20),), "oriented_rectangle"),
  )
  leaf = np.zeros((HEIGHT, WIDTH), np.uint8)
  leaf[3:10, 2:7] = crop
  book = drawn(CAT + ((20, 20),))
  assert_masks(only(Labelme(), tmp_path), ("leaf", leaf), ("book", book))


def test_labels_in_a_folder_of_their_own(tmp_path):
  photo(tmp_path / "images/train/a.jpg")
  write(tmp_path / "annotations/train/a.json", shape("dog", DOG))
  assert_masks(only(Labelme(), tmp_path), ("dog", drawn(DOG)))
  assert splits(Labelme(), tmp_path) == {"images/train/a.jpg": "train"}


def test_image_path_with_backslashes_names_the_photograph(tmp_path):
  photo(tmp_path / "pictures/holiday.jpg")
  photo(tmp_path / "others/holiday.jpg", seed=1)
  path = "..\\pictures\\holiday.jpg"
  write(tmp_path / "drawn/1.json", shape("dog", DOG), image=path)
  photos, lines = read(Labelme(), tmp_path)
  assert list(photos) == ["pictures/holiday.jpg"]
  assert lines == ["others/holiday.jpg:-: no labelme file belongs to it"]


def test_labels_without_a_photograph_are_named(tmp_path):
  write(tmp_path / "a.json", shape("dog", DOG), image="..\\..\\b.jpg")
  assert defect(Labelme(), tmp_path) == (
    "a.json:-: imagePath '../../b.jpg': no such photograph"
  )


def test_a_turned_photograph_has_its_labels_where_it_is_shown(tmp_path):
  photo(tmp_path / "a.jpg", height=WIDTH, width=HEIGHT, turn=6)
  write(tmp_path / "a.json", shape("dog", DOG))
  assert_masks(only(Labelme(), tmp_path), ("dog", drawn(DOG)))


def test_labels_of_another_size_are_refused(tmp_path):
  make(tmp_path, shape("dog", DOG), height=WIDTH, width=HEIGHT)
  assert defect(Labelme(), tmp_path) == (
    "a.json:-: is for an image of 30x40 pixels, the image has 40x30"
  )


def test_normalised_coordinates_are_refused(tmp_path):
  make(tmp_path, shape("dog", ((0.1, 0.1), (0.4, 0.1), (0.4, 0.6))))
  assert "they are normalised, want pixels" in defect(Labelme(), tmp_path)


def test_a_damaged_shape_is_named(tmp_path):
  make(tmp_path, shape("dog", DOG), shape("cat", [("x", 1)] * 3))
  assert defect(Labelme(), tmp_path).startswith("a.json:-: shape 1 ('cat'): point 0")


def test_a_shape_without_area_is_dropped_and_said(tmp_path):
  make(tmp_path, shape("dog", DOG), shape("cat", CAT[:2]))
  found = only(Labelme(), tmp_path)
  assert_masks(found, ("dog", drawn(DOG)))
  assert any("shape 1 ('cat') is dropped" in note for note in found.notes)


def test_a_list_of_names_says_what_was_looked_for(tmp_path):
  make(tmp_path, shape("dog", DOG))
  assert only(Labelme(), tmp_path).complete == frozenset()
  write_text(tmp_path / "labels.txt", "__ignore__\n_background_\ndog\ncat\n")
  assert only(Labelme(), tmp_path).complete == {"dog", "cat"}


def test_a_control_token_as_a_label_is_refused(tmp_path):
  make(tmp_path, shape("dog [SEG]", DOG))
  assert "label 'dog [SEG]' holds a control token" in defect(Labelme(), tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
  inside = tmp_path / "in"
  photo(tmp_path / "a.jpg")
  write(inside / "a.json", shape("dog", DOG))
  (inside / "a.jpg").symlink_to(tmp_path / "a.jpg")
  assert "is a link that leaves its folder" in defect(Labelme(), inside)


def test_masks_that_would_take_for_ever_are_refused(tmp_path):
  zigzag = [(x % 40, 1e6 * (x % 2)) for x in range(8000)]
  make(tmp_path, *[shape("dog", zigzag)] * 40)
  assert "would take too long to draw" in defect(Labelme(), tmp_path)


def parts_of(photo):
  """{name: name of what it is a part of}."""
  regions = photo.regions
  return {r.name: regions[r.part_of].name for r in regions if r.part_of is not None}


def test_a_shape_described_as_a_part_is_one_of_the_thing_of_its_group(tmp_path):
  hat = shape("hat", HAT, group=2, description="Part of dog")
  make(tmp_path, hat, shape("dog", DOG, group=1), shape("dog", CAT, group=2))
  found = only(Labelme(), tmp_path)
  assert parts_of(found) == {"hat": "dog"}
  np.testing.assert_array_equal(
    decode_rle(found.regions[found.regions[0].part_of].rle), drawn(CAT)
  )


def test_a_part_of_what_several_things_may_be_is_noted_and_stays_a_thing(tmp_path):
  hat = shape("hat", HAT, description="part of dog")
  make(tmp_path, shape("dog", DOG), shape("dog", CAT), hat)
  found = only(Labelme(), tmp_path)
  assert not parts_of(found)
  assert "a part of 'dog', of which there are 2" in found.notes[0]


def test_things_that_are_parts_of_each_other_are_a_defect(tmp_path):
  one = shape("dog", DOG, description="part of hat")
  make(tmp_path, one, shape("hat", HAT, description="part of dog"))
  assert "would be a part of itself" in defect(Labelme(), tmp_path)
