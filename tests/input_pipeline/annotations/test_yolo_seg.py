"""YOLO-seg text -> regions."""

import numpy as np
import pytest

from input_pipeline.annotations.yolo_seg import YoloSeg
from miras_jax.errors import UserError
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
  write_text,
)

YAML = "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames:\n"
NAMES = "  0: dog\n  1: cat\n"
BOTH = ("dog", drawn(DOG)), ("cat", drawn(CAT))


def row(number, *points):
  """A line as converters print it: six digits."""
  numbers = (np.array(points) / [WIDTH, HEIGHT]).reshape(-1)
  return " ".join([str(number), *(f"{n:.6g}" for n in numbers)])


def make(folder, *rows, yaml=YAML + NAMES):
  photo(folder / "images/train/a.jpg")
  write_text(folder / "labels/train/a.txt", "".join(f"{line}\n" for line in rows))
  write_text(folder / "data.yaml", yaml)
  return folder


def test_a_line_is_a_thing(tmp_path):
  make(tmp_path, row(0, *DOG), row(1, *CAT))
  found = only(YoloSeg(), folder_with_val(tmp_path))
  assert_masks(found, *BOTH)
  assert found.complete == {"dog", "cat"} and found.instances


def folder_with_val(folder):
  """The yaml without its val, which is not there."""
  write_text(folder / "data.yaml", YAML.replace("val: images/val\n", "") + NAMES)
  return folder


def test_the_names_as_a_list(tmp_path):
  make(tmp_path, row(0, *DOG), yaml="train: images/train\nnames: [dog, cat]\n")
  assert_masks(only(YoloSeg(), tmp_path), BOTH[0])


def test_names_without_yaml(tmp_path):
  make(tmp_path, row(1, *CAT))
  (tmp_path / "data.yaml").unlink()
  with pytest.raises(UserError, match="numbers and no names; want one of data.yaml"):
    read(YoloSeg(), tmp_path)
  write_text(tmp_path / "classes.txt", "dog\ncat\n")
  assert_masks(only(YoloSeg(), tmp_path), BOTH[1])


def test_a_photograph_without_a_text_shows_none_of_the_names(tmp_path):
  make(tmp_path, row(0, *DOG))
  photo(tmp_path / "images/val/b.jpg")
  photos, lines = read(YoloSeg(), tmp_path)
  assert not lines
  assert not photos["images/val/b.jpg"].regions
  assert photos["images/val/b.jpg"].complete == {"dog", "cat"}
  assert splits(YoloSeg(), tmp_path) == {
    "images/train/a.jpg": "train",
    "images/val/b.jpg": "val",
  }


def test_roboflow_climbs_out_of_the_folder_and_lists_what_is_not_there(tmp_path):
  for split in ("train", "valid"):
    photo(tmp_path / split / "images/a_jpg.rf.0f3c.jpg")
    write_text(tmp_path / split / "labels/a_jpg.rf.0f3c.txt", row(0, *DOG))
  yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
  write_text(tmp_path / "data.yaml", yaml + "nc: 2\nnames: ['dog', 'cat']\n")
  photos, lines = read(YoloSeg(), tmp_path)
  assert splits_of(photos) == {"train": 1, "valid": 1}
  assert lines == ["data.yaml:test: test: '../test/images' is no folder or list there"]


def splits_of(photos):
  first = [name.split("/")[0] for name in photos]
  return {name: first.count(name) for name in first}


def test_a_split_as_a_list_of_photographs(tmp_path):
  photo(tmp_path / "images/a.jpg")
  write_text(tmp_path / "labels/a.txt", row(0, *DOG))
  write_text(tmp_path / "val.txt", "/home/me/mine/images/a.jpg\n")
  write_text(tmp_path / "data.yaml", "val: val.txt\nnames: [dog]\n")
  assert splits(YoloSeg(), tmp_path) == {"images/a.jpg": "val"}


def test_one_folder_to_train_and_to_validate_on_states_no_split(tmp_path):
  make(tmp_path, row(0, *DOG), yaml="train: images\nval: images\n" + "names: [dog]\n")
  photo(tmp_path / "images/b.jpg")
  found = splits(YoloSeg(), tmp_path)
  assert found == {"images/b.jpg": None, "images/train/a.jpg": None}


def bridged(*parts):
  """Parts joined as converters do: along a line to the next, and back along it."""
  first, *others = parts
  path = [*first, first[0]]
  for part in others:
    path += [*part, part[0], first[0]]
  return path[:-1]


def test_bridges_between_the_pieces_of_a_thing_are_not_drawn(tmp_path):
  make(tmp_path, row(0, *bridged(DOG, CAT)))
  assert_masks(only(YoloSeg(), folder_with_val(tmp_path)), ("dog", drawn(DOG, CAT)))


def test_a_chain_of_pieces(tmp_path):
  third = ((30, 26), (34, 26), (34, 29), (30, 29))
  path = [*DOG, DOG[0], CAT[0], CAT[1], *third, third[0], *CAT[1:], CAT[0]]
  make(tmp_path, row(0, *path))
  wanted = ("dog", drawn(DOG, CAT, third))
  assert_masks(only(YoloSeg(), folder_with_val(tmp_path)), wanted)


def test_a_hole_that_a_bridge_leads_to_stays_one(tmp_path):
  make(tmp_path, row(0, *bridged(DOG, HAT)))
  hole_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
  hole_HW[7:10, 7:10] = 1
  wanted = ("dog", drawn(DOG) & (1 - hole_HW))
  assert_masks(only(YoloSeg(), folder_with_val(tmp_path)), wanted)


@pytest.mark.parametrize(
  "line, reason",
  [
    ("0 0.5 0.5 0.2 0.2", "is a box (class, centre, size), want a polygon: YOLO-seg"),
    ("0 0.1 0.1 0.2 0.2 0.3", "holds 5 numbers, want x y of three points or more"),
    ("0 3 4 15 4 15 20", "holds coordinates outside 0 to 1"),
    ("0 nan 0.1 0.2 0.1 0.2 0.2", "holds coordinates outside 0 to 1"),
    ("0 a 0.1 0.2 0.1 0.2 0.2", "holds something that is no number"),
    ("7 0.1 0.1 0.2 0.1 0.2 0.2", "class '7' has no name among 2"),
  ],
)
def test_defects_of_a_line(tmp_path, line, reason):
  make(tmp_path, row(0, *DOG), line)
  found = defect(YoloSeg(), folder_with_val(tmp_path))
  assert found.startswith(f"labels/train/a.txt:line 2: {reason}")


def test_a_line_given_twice_counts_once(tmp_path):
  make(tmp_path, row(0, *DOG), row(0, *DOG))
  found = only(YoloSeg(), folder_with_val(tmp_path))
  assert_masks(found, BOTH[0])
  assert "line 2: is equal to an earlier one" in found.notes[0]


def test_a_text_of_no_photograph_is_named(tmp_path):
  make(tmp_path, row(0, *DOG))
  write_text(tmp_path / "labels/train/b.txt", row(0, *DOG))
  _, lines = read(YoloSeg(), folder_with_val(tmp_path))
  assert lines == ["labels/train/b.txt:-: no photograph belongs to it"]


@pytest.mark.parametrize(
  "yaml, reason",
  [
    ("names: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
    ("a: &a [dog]\nnames: *a\n", "holds YAML aliases"),
    ("names: [dog, cat]\nnc: 3\n", "nc is 3, names lists 2"),
    ("names: [dog\n", "is not valid YAML"),
    ("- dog\n", "is no YAML mapping"),
    ("names: dog\n", "names: holds a str, want a list of names"),
  ],
)
def test_hostile_and_damaged_yaml_is_one_line(tmp_path, yaml, reason):
  make(tmp_path, row(0, *DOG), yaml=yaml)
  with pytest.raises(UserError, match=f"data.yaml: {reason}"):
    read(YoloSeg(), tmp_path)
