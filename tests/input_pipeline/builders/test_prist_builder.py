"""PRIST as published -> conversations equal to those of its reader."""

import json

import numpy as np
import pytest

from input_pipeline import prist
from input_pipeline.builders import registry
from input_pipeline.builders.folder import SourceFolder
from miras_jax.errors import UserError
from tests.input_pipeline.builders.in_memory import build_in_memory, masks, reasons
from tests.prist_files import (
  HEIGHT,
  WIDTH,
  encode,
  labelme,
  photo,
  record,
  shape,
  write,
)
from tests.shared_data import DATA, needs_data

PRIST = registry.make("prist")


def published(root, records, *, text="cup", encoding="utf-8"):
  """The tree of the published loaders, one photograph."""
  base = root / "PRIST"
  for folder in ("textcaps/train", "textcaps/masks"):
    (base / folder).mkdir(parents=True)
  (base / "train.json").write_text(json.dumps(records))
  (base / "textcaps/train/0a1f.jpg").write_bytes(encode(photo(), "JPEG"))
  labels = json.dumps(labelme(shape(text)), ensure_ascii=False).encode(encoding)
  (base / "textcaps/masks/0a1f.json").write_bytes(labels)
  return root


def test_a_dialogue_keeps_its_turns_and_gets_its_mask(tmp_path):
  published(tmp_path, [record("0a1f.jpg"), record("0a1f.jpg", focus=None)])
  (first, empty), errors = build_in_memory(PRIST, tmp_path, "train")
  assert not errors
  assert first.turns == (("user", "Where is it?"), ("assistant", "Sure, [SEG]."))
  assert (first.id, first.image_id) == ("0", "openimages/0a1f")
  assert [name for name, _ in first.targets] == ["cup"]
  wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
  wanted[4:13, 4:13] = 1
  np.testing.assert_array_equal(masks(first)[0], wanted)
  assert [name for name, _ in empty.targets] == [""]


def test_labels_may_be_of_old_windows(tmp_path):
  entry = record("0a1f.jpg", focus="café")
  published(tmp_path, [entry], text="café", encoding="cp1252")
  (found,), _ = build_in_memory(PRIST, tmp_path, "train")
  assert found.targets[0][0] == "café"


def test_the_plain_layout_gives_what_the_reader_gives(tmp_path):
  root = write(tmp_path, [record(), record(focus="Cup")])
  records, errors = build_in_memory(PRIST, root, "val")
  wanted = list(prist.read_dataset(root, "val"))
  assert not errors
  assert [(r.turns, r.targets, r.image) for r in records] == [
    (r.turns, r.targets, r.image) for r in wanted
  ]


class Bucket(SourceFolder):
  """A folder that says that it is a bucket: nothing opens its files by their paths."""

  def __init__(self, folder):
    super().__init__(folder)
    self._files, self.root = self.root, "gs://bucket/prist"

  def path(self, name):
    return self._files / name


def test_a_bucket_gives_what_a_folder_gives(tmp_path):
  published(tmp_path, [record("0a1f.jpg"), record("gone.jpg")])
  (wanted,), errors = build_in_memory(PRIST, tmp_path, "train")
  source = Bucket(tmp_path)
  found = [
    record
    for unit in PRIST.units(source, "train")
    for record in PRIST.records(source, unit)
  ]
  assert found[0] == wanted
  assert str(found[1]) == str(errors[0])


def test_each_bad_dialogue_is_named(tmp_path):
  bad = [
    record("0a1f.jpg"),
    record("gone.jpg"),
    record("0a1f.jpg", focus="hat"),
    record("0a1f.jpg", answer="no mask"),
    record("../0a1f.jpg"),
    "text",
  ]
  published(tmp_path, bad)
  records, errors = build_in_memory(PRIST, tmp_path, "train")
  assert len(records) == 1
  found = reasons(errors)
  assert sorted(found) == [1, 2, 3, 4, 5]
  assert found[1] == "PRIST/images/gone.jpg: no such file"
  assert found[2].startswith("PRIST/textcaps/masks/0a1f.json: ")
  assert "'hat'" in found[2]
  assert "0 [SEG] for 1 focus" in found[3]
  assert "leaves its folder" in found[4]


def test_splits_are_the_lists_that_lie_there(tmp_path):
  published(tmp_path, [record("0a1f.jpg")])
  for name in ("val", "test", "meta"):
    (tmp_path / f"PRIST/{name}.json").write_text("[]")
  assert PRIST.splits(SourceFolder(tmp_path)) == ("train", "val", "test")


def test_without_a_list_the_layout_is_told(tmp_path):
  with pytest.raises(UserError, match="PixelRIST(.|\n)*img_id, dialogue"):
    build_in_memory(PRIST, tmp_path, "train")


@needs_data
def test_the_public_list_is_508_dialogues_without_photographs():
  records, errors = build_in_memory(PRIST, DATA / "prist_official", "test")
  assert not records
  assert len(errors) == 508
  assert all("no such file" in error.reason for error in errors)


@needs_data
def test_real_photographs_give_what_the_reader_gives():
  folder = DATA / "prist_real_mini"
  records, errors = build_in_memory(PRIST, folder, "val")
  wanted = {r.id: r for r in prist.read_dataset(folder, "val")}
  assert not errors
  assert len(records) == len(wanted) == 22
  for found in records:
    assert found.targets == wanted[f"val/{found.id}"].targets
