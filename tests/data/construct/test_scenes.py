"""PRIST-X of rendered scenes: the format, its builder, edits that are what they say."""

import json

import numpy as np
import pytest

from input_pipeline import mask_ops, prist_x
from input_pipeline.builders import registry
from input_pipeline.prepare import trees
from input_pipeline.prepare.naming import sample_namings
from input_pipeline.prepare.scene import sample_scene
from miras_jax.data import command as data
from miras_jax.errors import UserError
from tests.input_pipeline.builders.in_memory import build_in_memory, masks


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  out = tmp_path_factory.mktemp("x")
  data.main(["construct", "--scenes=12", f"--out={out}"])
  return out


def photographs(out):
  for path in sorted((out / "trees").glob("*.jsonl")):
    for line in path.read_bytes().splitlines():
      yield prist_x.parse(line)


def test_a_second_run_makes_the_same_bytes(made, tmp_path):
  data.main(["construct", "--scenes=12", f"--out={tmp_path}"])
  for path in (p for p in made.rglob("*") if p.is_file() and p.name != ".lock"):
    assert (tmp_path / path.relative_to(made)).read_bytes() == path.read_bytes()


def test_there_are_several_targets_parts_empty_ones_and_every_edit(made):
  found = [m for p in photographs(made) for t in p.talks.values() for m in t.masks]
  assert {len(ids) for ids, *_ in found} >= {0, 1, 2}
  assert any("." in ids[0] for ids, *_ in found if ids)
  assert {edit for _, edit, *_ in found} == {prist_x.NEW, *prist_x.EDITS}


def test_each_path_of_a_tree_leaves_its_focus_alone(made):
  for photo in photographs(made):
    nodes = {node["id"]: node for node in photo.tree["nodes"]}
    for path in photo.tree["paths"]:
      assert nodes[path["nodes"][-1]]["elements"] == [path["focus"]]
      assert [nodes[i]["level"] for i in path["nodes"]] == [1, 2, 3][
        : len(path["nodes"])
      ]


def test_a_built_target_is_the_union_of_its_things(made):
  records, errors = build_in_memory(registry.make("prist_x"), made, "train")
  assert not errors
  photo = next(iter(photographs_of(made, "train")))
  first = records[0]
  for mask_HW, (ids, *_) in zip(masks(first), photo.talks[0].masks, strict=True):
    wanted_HW = np.zeros((photo.height, photo.width), np.uint8)
    for i in ids:
      wanted_HW |= mask_ops.decode_rle(photo.things[i].rle)
    np.testing.assert_array_equal(mask_HW, wanted_HW)


def test_a_built_record_says_what_each_of_its_masks_is(made):
  """The edit that the data state; one thing, several, a part, or none of them."""
  records, _ = build_in_memory(registry.make("prist_x"), made, "train")
  talks = [t for p in photographs_of(made, "train") for t in p.talks.values()]
  for record, talk in zip(records, talks, strict=True):
    said = prist_x.kinds_of(record.id)
    assert [edit for edit, _ in said] == [edit for _, edit, *_ in talk.masks]
    counts = {"one": 1, "part": 1, "none": 0}
    for (_, of), (ids, *_) in zip(said, talk.masks, strict=True):
      assert len(ids) > 1 if of == "several" else len(ids) == counts[of]
      assert (of == "part") == (len(ids) == 1 and "." in ids[0])


def photographs_of(out, split):
  lines = (out / "trees" / f"{split}.jsonl").read_bytes().splitlines()
  return map(prist_x.parse, lines)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"edit": "add"}, "is not: all of it, and more"),
    ({"things": ["o9"]}, "which is no thing"),
    ({"of": 7}, "which is not before it"),
    ({"edit": "paint"}, "is none of new, add"),
  ],
)
def test_a_mask_that_is_not_the_edit_it_says_is_named(made, change, said):
  line = json.loads((made / "trees" / "val.jsonl").read_bytes().splitlines()[0])
  mask = line["conversations"][0]["masks"][1]
  mask.update(change)
  photo = prist_x.parse(json.dumps(line).encode())
  (index, reason), *_ = photo.defects
  assert index == 0 and said in reason


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"height": 10**9}, "no sides of a picture"),
    ({"things": [{"id": 1, "name": "a", "part_of": "", "mask": {}}]}, "is no text"),
    ({"version": 2}, "want 1"),
    ({"tree": []}, "tree no object"),
  ],
)
def test_a_line_of_a_stranger_is_one_reason(made, change, said):
  line = json.loads((made / "trees" / "val.jsonl").read_bytes().splitlines()[0])
  with pytest.raises(ValueError, match=said):
    prist_x.parse(json.dumps(line | change).encode())


def test_a_folder_with_other_scenes_is_left_alone(made):
  with pytest.raises(UserError, match="begun with scenes=12, not 13"):
    data.main(["construct", "--scenes=13", f"--out={made}"])


def test_short_talks_are_added_to_what_is_trained_on_and_change_nothing_else(
  made, tmp_path
):
  data.main(["construct", "--scenes=12", "--short=4", f"--out={tmp_path}"])
  for split in ("val", "test"):
    name = f"trees/{split}.jsonl"
    assert (tmp_path / name).read_bytes() == (made / name).read_bytes()
  pairs = zip(photographs_of(tmp_path, "train"), photographs_of(made, "train"),
              strict=True)  # fmt: skip
  added = []
  for photo, without in pairs:
    talks = list(photo.talks.values())
    count = len(without.talks)
    assert talks[:count] == list(without.talks.values()) and not photo.defects
    added += [(photo, talk) for talk in talks[count:]]
  asked = {photo.asks_for(m[0]) for photo, talk in added for m in talk.masks}
  assert asked == set(prist_x.OF)
  assert {len(talk.masks) for _, talk in added} == {0, 1}


def test_the_masks_of_a_short_talk_are_those_of_what_it_names():
  """As `miras data synth --short` draws them from the outlines."""
  rng = np.random.default_rng(3)
  for index in range(20):
    scene = sample_scene(np.random.default_rng([5, index]))
    things = {thing["id"]: thing["mask"] for thing in trees._things(scene)}
    for talk in sample_namings(scene, rng, 6):
      for target in talk.targets:
        wanted_HW = np.zeros((scene.height, scene.width), np.uint8)
        for polygon in target.polygons:
          wanted_HW |= mask_ops.rasterise_polygons([polygon], scene.height, scene.width)
        found_HW = np.zeros_like(wanted_HW)
        for i in trees._ids_of(scene, target.polygons):
          found_HW |= mask_ops.decode_rle(things[i])
        np.testing.assert_array_equal(found_HW, wanted_HW)


def test_every_word_of_a_target_has_been_said_before_its_mask_is_due(made):
  """A model says the name before [SEG]: it cannot know what nobody has said."""
  glue = {"and", "of", "the", "without", "thing", "things", "one", "ones"}
  for photo in photographs(made):
    for talk in photo.talks.values():
      heard, masks = "", iter(talk.masks)
      for _, text in talk.turns:
        heard += " " + text.lower()
        if "[SEG]" in text:
          name, _ = photo.target(next(masks))
          for word in set(name.lower().split()) - glue:
            assert word.rstrip("s") in heard, (name, heard)


def test_a_mask_without_a_name_has_those_of_its_things(made):
  photo = next(iter(photographs(made)))
  ids = tuple(photo.things)[:2]
  name, _ = photo.target(prist_x.Mask(ids, prist_x.NEW, -1))
  assert name == ", ".join(dict.fromkeys(photo.things[i].name for i in ids))
