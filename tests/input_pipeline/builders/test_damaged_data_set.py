"""A built data set that lost or changed a file: one line says which."""

import json
import os

import numpy as np
import pytest

from input_pipeline import tfds_source
from input_pipeline.builders import finish
from input_pipeline.builders.build import build
from input_pipeline.open_source import open_source
from miras_jax.data import command
from miras_jax.errors import UserError
from tests.input_pipeline.builders import numbered


def write(content):
  return lambda path: path.write_text(content)


def cut(path):
  os.truncate(path, path.stat().st_size - 9)


def other(*values):
  return lambda path: np.save(path, np.array(values))


def counts(**changed):
  def change(path):
    made = json.loads(path.read_text())
    made["splits"]["train"] |= changed
    path.write_text(json.dumps(made))

  return change


def remove(path):
  path.unlink()


@pytest.mark.parametrize(
  "file, damage",
  [
    ("index-train.first.npy", remove),
    ("index-train.first.npy", cut),
    ("index-train.first.npy", other(0, 10**9)),
    ("index-train.first.npy", other(0, 1, 2, 10**9)),
    ("index-train.images.npy", other(b"a")),
    ("index-train.images.npy", write("")),
    ("index-train.dialogues.jsonl", remove),
    ("index-train.dialogues.jsonl", cut),
    ("index-train.dialogues.jsonl", write("{}\n")),
    ("index-train.dialogues.jsonl", write("")),
    ("rejected-train.jsonl", remove),
    ("notes-train.jsonl", write("3\n")),
    (tfds_source.INFO, write("{")),
    ("features.json", remove),
    ("features.json", write("[]")),
    (finish.NAME, write("{}")),
    (finish.NAME, write("[]")),
    (finish.NAME, write('{"format": 1, "splits": {"train": 3}}')),
    (finish.NAME, write('{"format": 1, "splits": {}}')),
    (finish.NAME, counts(conversations="3")),
    (finish.NAME, counts(fingerprint=None)),
  ],
)
def test_check_names_the_damaged_file(tmp_path, file, damage):
  src = numbered.write(tmp_path / "src", ["good"] * 3)
  folder = build(numbered.Numbered(), src, tmp_path / "out")
  damage(folder / file)
  with pytest.raises(UserError) as error:
    command.main(["check", str(folder)])
  kind = file.split(".")[-1]
  assert kind in str(error.value) and "build the data set anew" in str(error.value)


def test_a_data_set_may_move(tmp_path):
  src = numbered.write(tmp_path / "src", ["good"] * 3)
  folder = build(numbered.Numbered(), src, tmp_path / "out")
  moved = tmp_path / "a: b/é"
  moved.parent.mkdir()
  folder.rename(moved)
  assert open_source(moved, "train").load(2).id == "2/0"
