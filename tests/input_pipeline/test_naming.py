"""Short talks about rendered scenes: names, and requests that are unclear."""

import hashlib
import json

import numpy as np
import pytest

from input_pipeline.prepare import naming, scene, synth, wording
from input_pipeline.prist import read_dataset


def namings(count=30):
  for seed in range(40):
    drawn = scene.sample_scene(np.random.default_rng(seed))
    yield drawn, naming.sample_namings(drawn, np.random.default_rng(seed), count)


def words(item):
  return {item.size, item.colour, item.texture, item.shape}


def named():
  """(scene, question, target) of every talk that wants a mask."""
  for drawn, talks in namings():
    for talk in (t for t in talks if t.targets):
      ((question, _),), (target,) = talk.rounds, talk.targets
      yield drawn, question, target


def test_every_kind_of_name_is_asked_for():
  labels = [target.label for _, _, target in named()]
  assert None in labels
  for word in ("things", "leftmost", "roof of the", "small"):
    assert any(word in (label or "") for label in labels)


def test_a_name_without_a_place_fits_one_object_alone():
  seen = 0
  for drawn, _, target in named():
    label = target.label or "things"
    said = set(label.split()) - {"thing"}
    known = set().union(*map(words, drawn.objects))
    if label.endswith("things") or not said <= known:
      continue
    fitting = [item for item in drawn.objects if said <= words(item)]
    assert len(fitting) == 1
    assert target.polygons == tuple(fitting[0].polygons)
    seen += 1
  assert seen > 50


def test_a_part_is_of_the_one_object_that_its_name_fits():
  seen = 0
  for drawn, _, target in named():
    part, of, owner = (target.label or "").partition(" of the ")
    if not of:
      continue
    said = set(owner.split()) - {"thing"}
    (fitting,) = [item for item in drawn.objects if said <= words(item)]
    assert target.polygons == tuple(fitting.parts[part])
    seen += 1
  assert seen > 20


def test_of_what_is_said_to_be_absent_there_is_none():
  seen = 0
  for drawn, question, target in named():
    if target.label is None:
      said = set(question.rstrip(".").split())
      assert not any(len(said & words(item)) > 1 for item in drawn.objects)
      seen += 1
  assert seen > 10


def test_what_nobody_can_know_is_answered_by_a_question():
  asked = [t.rounds for _, talks in namings() for t in talks if not t.targets]
  assert len(asked) > 10
  for ((question, answer),) in asked:
    assert answer in wording.WHICH
    assert not {"leftmost", "red", "small"} & set(question.split())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  out = tmp_path_factory.mktemp("names")
  synth.generate(out / "bare", conversations=60, seed=3)
  synth.generate(out / "named", conversations=60, seed=3, short=4)
  return out / "bare", out / "named"


def test_the_strict_reader_finds_nothing_wrong(folders):
  for split in ("train", "val", "test"):
    assert list(read_dataset(folders[1], split).problems()) == []


def test_conversations_and_pictures_are_those_without_names(folders):
  def rest(folder):
    files = [*folder.glob("images/*"), folder / "val.json", folder / "test.json"]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

  bare, named = (json.loads((f / "train.json").read_text()) for f in folders)
  assert rest(folders[0]) == rest(folders[1])
  assert [r for r in named if r in bare] == bare and len(named) > len(bare)


def test_each_training_picture_has_its_questions_after_its_conversations(folders):
  records = json.loads((folders[1] / "train.json").read_text())
  images = [r["img_id"] for r in records]
  assert len(dict.fromkeys(images)) == 1 + sum(
    a != b for a, b in zip(images, images[1:], strict=False)
  )
  short = [r for r in records if len(r["dialogue"]) == 2 or not r["focus"]]
  assert len(short) > 3 * len(set(images))
