"""Annotated parts as what a conversation ends on."""

import dataclasses
import json
import random

import numpy as np
import pytest
from PIL import Image

from input_pipeline import mask_ops, prist_x
from input_pipeline.annotations.photo import LabelledPhoto, Region
from input_pipeline.narrate.things import make_scene
from input_pipeline.narrate.wordings import Wordings
from miras_jax.data import command as data
from miras_jax.data.construct import claims, tree
from miras_jax.data.construct.measures import Measures
from tests.data.construct import pictures

PARTS = ("handle", "lid", "knob", "strap", "rim", "cord")


def make(root, count, seed=0):
  """root/images/*.png and root/masks/all.json: COCO, large things with two parts."""
  (root / "images").mkdir(parents=True)
  (root / "masks").mkdir()
  rng, images, annotations = random.Random(seed), [], []
  for number in range(count):
    image_HWC, index_HW = pictures.draw(rng)
    name = f"p{number:03d}.png"
    Image.fromarray(image_HWC).save(root / "images" / name)
    size = {"height": pictures.SIDE, "width": pictures.SIDE}
    images.append({"id": number, "file_name": name} | size)
    spare = list(PARTS)
    for value in sorted(set(index_HW.flat) - {0}):
      rows, columns = np.nonzero(index_HW == value)
      box = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
      whole = _annotation(annotations, number, int(value), box)
      if box[1] - box[0] >= 24 and len(spare) > 1:
        top, bottom, left, right = box
        middle = (left + right) // 2
        for part in ((top, bottom - 8, left, middle), (top, top + 10, middle, right)):
          category = 1 + len(pictures.NAMES) + PARTS.index(spare.pop())
          _annotation(annotations, number, category, part, whole)
  names = enumerate((*pictures.NAMES, *PARTS), 1)
  document = {"images": images, "annotations": annotations}
  document["categories"] = [{"id": i, "name": name} for i, name in names]
  (root / "masks" / "all.json").write_text(json.dumps(document))
  return root


def _annotation(annotations, image, category, box, whole=None):
  row = {"id": len(annotations) + 1, "image_id": image, "category_id": category}
  row["segmentation"] = box_rle(*box)
  annotations.append(row | ({"part_of": whole} if whole else {}))
  return row["id"]


def box_rle(top, bottom, left, right, side=pictures.SIDE):
  mask_HW = np.zeros((side, side), np.uint8)
  mask_HW[top:bottom, left:right] = 1
  return mask_ops.encode_rle(mask_HW)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  root = make(tmp_path_factory.mktemp("photos") / "p", 12)
  out = tmp_path_factory.mktemp("out")
  data.main(
    ["construct", f"--images={root / 'images'}", f"--masks={root / 'masks'}"]
    + [f"--out={out}", "--model=rules", "--per-image=8", "--splits=train:1"]
  )
  return out


def photographs(out):
  lines = (out / "trees" / "train.jsonl").read_bytes().splitlines()
  return [prist_x.parse(line) for line in lines]


def test_conversations_end_on_parts_by_way_of_what_they_are_parts_of(made):
  found = 0
  for photo in photographs(made):
    nodes = {node["id"]: node for node in photo.tree["nodes"]}
    elements = {e["id"]: e for e in photo.tree["elements"]}
    for talk in photo.talks.values():
      ((ids, *_),) = talk.masks
      if photo.asks_for(ids) != prist_x.PART:
        continue
      found += 1
      path = [nodes[i] for i in photo.tree["paths"][talk.path]["nodes"]]
      (step,) = (node for node in path if node["test"] == "part")
      assert elements[step["of"]]["annotation"] == photo.things[ids[0]].part_of
  assert found > 10
  meta = json.loads((made / "meta.json").read_text())
  share = found / meta["counts"]["conversations"]
  assert meta["statistics"]["share_of_parts"] == pytest.approx(share, abs=1e-4)


def test_no_conversation_about_parts_was_rejected_but_for_the_guesser(made):
  lines = (made / "rejected.jsonl").read_text().splitlines()
  assert {json.loads(line)["reason"] for line in lines} <= {"guessed"}


def test_what_was_made_is_a_sound_data_set(made, capsys):
  assert data.main(["check", str(made)]) == 0
  assert "0 problems, 0 warnings" in capsys.readouterr().out


# A cart (a0) with a wheel (a1) and a "cart:bell" (a2); a bench (a3) with a leg (a4).
BOXES = {
  "cart": (10, 50, 10, 60, None), "wheel": (30, 50, 10, 30, 0),
  "cart:bell": (10, 20, 50, 60, 0), "bench": (70, 110, 60, 110, None),
  "leg": (90, 110, 60, 70, 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def known():
  regions = tuple(Region(n, box_rle(*b[:4]), b[4]) for n, b in BOXES.items())
  image_HWC = np.full((pictures.SIDE, pictures.SIDE, 3), 128, np.uint8)
  size = {"height": pictures.SIDE, "width": pictures.SIDE}
  photo = LabelledPhoto(image=b"", image_id="x", regions=regions, **size)
  return Measures(make_scene(photo, image_HWC, Wordings.load(), 0.001))


def faults(known, *steps, focus):
  """Reasons against a path of (test, of, elements) about the photograph above."""
  elements = {
    i: tree.Element(i, t.name, i, (known.above(i) or [""])[0], "")
    for i, t in known.things.items()
  }
  nodes, parent = {}, tree.ROOT
  for level, (test, of, left) in enumerate(steps, 1):
    nodes[f"n{level}"] = tree.Node(
      f"n{level}", parent, level, "", tuple(left.split()), test, of
    )
    parent = f"n{level}"
  path = tree.Path("q", tuple(nodes), focus)
  made = tree.Tree("", {"q": tree.Question("q", "", 2)}, nodes, (), (path,), elements)
  assert not tree.path_fault(made, path)
  return [reason for reason, _ in claims.of_path(made, path, known)]


TOP = ("top", "", "a0 a1 a2")


def test_a_path_may_go_on_to_a_part(known):
  steps = TOP, ("part", "a0", "a1 a2"), ("largest", "", "a1")
  assert faults(known, *steps, focus="a1") == []


def test_a_part_that_is_left_behind_is_no_contradiction(known):
  assert faults(known, ("top", "", "a0 a1"), ("none", "", "a1"), focus="a1") == []


@pytest.mark.parametrize(
  ("steps", "reason"),
  [
    ((TOP, ("part", "a0", "a1")), "relation"),  # it has a second one
    ((TOP, ("part", "a3", "a1")), "relation"),  # of the bench
    ((TOP, ("part", "a0", "a1 a2"), ("smallest", "", "a1")), "size"),
    ((("bottom", "", "a0 a1 a2"), ("none", "", "a1")), "side"),
  ],
)
def test_what_the_masks_refute_of_parts_is_rejected(known, steps, reason):
  assert reason in faults(known, *steps, focus="a1")


def test_people_count_things_without_the_parts_that_come_with_them(known):
  node = tree.Node("n", tree.ROOT, 1, "", tuple(known.things), "none", "")
  elements = {i: tree.Element(i, "", i, "", "") for i in known.things}
  made = tree.Tree("", {}, {"n": node}, (), (), elements)
  assert claims.count_of(made, node, known) == 2
  parts = dataclasses.replace(node, elements=("a1", "a2"))
  assert claims.count_of(made, parts, known) == 2


def test_a_part_is_called_without_the_name_of_its_whole(known):
  assert [known.things[i].name for i in ("a1", "a2")] == ["wheel", "bell"]
  assert [row.get("part_of") for row in known.table()] == [None, "a0", "a0", None, "a3"]
