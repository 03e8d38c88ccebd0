"""The rendered data set: deterministic, true of its images, and multi-turn."""

import hashlib
import json
import math

import numpy as np
import pytest

from input_pipeline.mask_ops import decode_rle
from input_pipeline.prepare import dialogue, scene, synth
from input_pipeline.prist import read_dataset
from miras_jax.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp("synth") / "data"
  synth.generate(out, conversations=150, seed=3)
  return out


def _digest(folder):
  files = sorted(p for p in folder.rglob("*") if p.is_file())
  return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
          for p in files}  # fmt: skip


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
  synth.generate(tmp_path / "again", conversations=150, seed=3)
  assert _digest(tmp_path / "again") == _digest(folder)


def test_another_seed_gives_other_conversations(folder, tmp_path):
  synth.generate(tmp_path / "other", conversations=150, seed=4)
  ours, others = ((p / "train.json").read_text() for p in (folder, tmp_path / "other"))
  assert ours != others


def test_the_strict_reader_finds_nothing_wrong(folder):
  for split in ("train", "val", "test"):
    assert list(read_dataset(folder, split).problems()) == []


def test_no_image_is_in_two_splits(folder):
  images = [set(read_dataset(folder, s).image_ids) for s in ("train", "val", "test")]
  assert not images[0] & images[1] | images[0] & images[2] | images[1] & images[2]


def test_every_conversation_has_three_to_five_turns(folder):
  records = json.loads((folder / "train.json").read_text())
  assert {len(r["dialogue"]) // 2 for r in records} <= {3, 4, 5}


def test_there_are_two_targets_empty_targets_and_early_masks(folder):
  dataset = read_dataset(folder, "train")
  conversations = [dataset[i] for i in range(len(dataset))]
  masks = [[t[1] for t in c.targets] for c in conversations]
  areas = [decode_rle(m, max_pixels=1 << 16).sum() for ms in masks for m in ms]
  early = [c for c in conversations if any("[SEG]" in text for _, text in c.turns[:-1])]
  two = [c for c in conversations if c.turns[-1][1].count("[SEG]") == 2]
  assert min(areas) == 0 and early and two


def test_one_object_follows_only_from_all_its_facts_together():
  rng = np.random.default_rng(0)
  checked = 0
  for _ in range(200):
    objects = scene.sample_scene(rng).objects
    item = objects[rng.integers(len(objects))]
    facts = dialogue.chain(objects, item, rng)
    if not facts:
      continue
    left = objects
    for fact in facts:
      left = fact.pick(left)
      alone = fact.pick(objects)
      assert len(alone) > 1 or alone != (item,)
    assert left == (item,)
    checked += 1
  assert checked > 50


def test_objects_of_a_scene_do_not_overlap():
  rng = np.random.default_rng(1)
  for _ in range(20):
    picture = scene.sample_scene(rng)
    gaps = [
      math.dist(a.centre, b.centre) - a.radius - b.radius
      for i, a in enumerate(picture.objects)
      for b in picture.objects[:i]
    ]
    assert min(gaps, default=1) > 0


def test_a_second_run_leaves_the_data_set_alone(folder):
  before = _digest(folder)
  assert synth.generate(folder, conversations=150, seed=3)["train"] > 0
  assert _digest(folder) == before


def test_a_folder_with_other_data_is_refused(folder):
  with pytest.raises(UserError, match="holds another data set"):
    synth.generate(folder, conversations=150, seed=4)


def test_a_killed_run_is_made_again_from_its_beginning(folder, tmp_path, monkeypatch):
  class Killed(BaseException):
    pass

  def killed(out, per_image):
    for _ in zip(range(3), per_image, strict=False):
      pass
    raise Killed

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(synth, "_write_splits", killed)
    synth.generate(tmp_path / "data", conversations=20, seed=9)
  assert (tmp_path / "data" / "images").exists()
  synth.generate(tmp_path / "data", conversations=150, seed=3)
  assert _digest(tmp_path / "data") == _digest(folder)


def test_a_damaged_marker_is_one_line(tmp_path):
  (tmp_path / synth.MARKER).write_text('{"seed": ')
  with pytest.raises(UserError, match="synth.json: damaged"):
    synth.generate(tmp_path, conversations=20, seed=9)
