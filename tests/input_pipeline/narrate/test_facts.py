"""A fact singles out one thing, by a margin; recomputed here from the masks alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import mask_ops
from input_pipeline.narrate import facts
from input_pipeline.narrate.things import make_scene
from input_pipeline.narrate.wordings import Wordings
from tests.input_pipeline.narrate.drawn import HEIGHT, RGB, WIDTH, draw, street

WORDS = Wordings.load()


def scene_of(*items):
  return make_scene(*draw(*items), WORDS, 0.001)


def found(scene, group=None):
  """{(kind, word or name of the other thing): name of the thing}."""
  return {
    (f.kind, f.word or f.other.name): f.thing.name
    for f in facts.facts(scene, group or scene.things)
  }


def test_facts_of_a_scene_are_those_one_sees():
  scene = make_scene(*street(), WORDS, 0.001)
  hat, coat, bag, _ = scene.things
  told = found(scene)
  assert told["ask_word", "highest"] == "hat"
  assert told["ask_word", "lowest"] == "shoes"
  assert told["ask_word", "rightmost"] == "bag"
  assert told["ask_word", "largest"] == "coat"
  assert told["ask_colour", "blue"] == "coat"
  assert ("ask_word", "leftmost") not in told  # the shoes, by less than the margin
  assert found(scene, [hat, bag])["ask_above", "coat"] == "hat"
  assert ("ask_next_to", "coat") not in found(scene, [hat, bag])  # both nearly touch
  assert found(scene, [coat, bag])["ask_below", "hat"] == "coat"


boxes = st.tuples(
  st.integers(0, WIDTH - 31),
  st.integers(0, HEIGHT - 31),
  st.integers(5, 30),
  st.integers(5, 30),
  st.sampled_from(sorted(RGB)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes, min_size=2, max_size=4))
def test_every_fact_is_true_of_the_masks_by_its_margin(drawn):
  items = [
    (f"thing {i}", (x, y, x + w, y + h), colour)
    for i, (x, y, w, h, colour) in enumerate(drawn)
  ]
  photo, image = draw(*items)
  scene = make_scene(photo, image, WORDS, 0.001)
  masks = [mask_ops.decode_rle(region.rle) for region in photo.regions]
  centre = np.array([[np.argwhere(m).mean(0) + 0.5] for m in masks])[:, 0]
  y, x = (centre / (HEIGHT, WIDTH)).T
  area = np.array([m.sum() for m in masks])
  value = {
    "leftmost": x, "rightmost": -x, "highest": y, "lowest": -y,
    "largest": -np.log(area), "smallest": np.log(area),
    "central": np.hypot(x - 0.5, y - 0.5),
  }  # fmt: skip
  margin = dict.fromkeys(value, facts.APART) | {
    "central": facts.CENTRAL,
    "largest": np.log(facts.LARGER),
    "smallest": np.log(facts.LARGER),
  }
  for fact in facts.facts(scene, scene.things):
    i = fact.thing.number
    if fact.kind == "ask_word":
      others = np.delete(value[fact.word], i)
      assert value[fact.word][i] + margin[fact.word] <= others.min() + 1e-9
    if fact.kind == "ask_colour":
      median = [np.median(image[m > 0], axis=0) for m in masks]
      same = [np.abs(c - RGB[fact.word]).max() < 30 for c in median]
      assert same == [k == i for k in range(len(items))]


@pytest.mark.parametrize(
  "gap, verdict", [(0, True), (1, True), (3, None), (5, False), (40, False)]
)
def test_things_touch_or_are_clearly_apart(gap, verdict):
  scene = scene_of(
    ("a", (10, 10, 30, 30), "red"), ("b", (30 + gap, 10, 50 + gap, 30), "blue")
  )
  first, second = scene.things
  assert facts.touches(scene, first, second) is verdict
  assert facts.touches(scene, second, first) is verdict


@pytest.mark.parametrize(
  "y, verdict", [(5, True), (34, None), (60, False), (80, False)]
)
def test_above_is_over_the_upper_edge_of_the_other(y, verdict):
  scene = scene_of(("a", (40, y, 60, y + 14), "red"), ("b", (30, 40, 70, 60), "blue"))
  assert facts.is_above(scene, *scene.things) is verdict


def test_a_thing_beside_the_other_is_neither_above_nor_below_it():
  scene = scene_of(("a", (2, 5, 20, 20), "red"), ("b", (60, 60, 90, 90), "blue"))
  assert facts.is_above(scene, *scene.things) is False
  assert facts.is_below(scene, *scene.things) is False


def test_a_half_with_something_across_its_edge_is_not_spoken_of():
  top, bottom = ("a", (5, 5, 20, 20), "red"), ("b", (5, 60, 20, 90), "blue")
  scene = scene_of(top, bottom)
  assert [t.name for t in facts.in_half(scene, "top")] == ["a"]
  across = scene_of(top, bottom, ("c", (60, 40, 80, 60), "white"))
  assert facts.in_half(across, "top") is None


def test_two_things_of_a_colour_or_a_mixed_one_give_no_colour():
  twice = scene_of(("a", (5, 5, 20, 20), "red"), ("b", (50, 5, 80, 20), "red"))
  assert not any(kind == "ask_colour" for kind, _ in found(twice))
  photo, image = draw(("a", (5, 5, 45, 20), "red"), ("b", (60, 5, 80, 20), "blue"))
  image[5:20, 5:45] = np.linspace(0, 255, 40, dtype=np.uint8)[:, None]
  mixed = make_scene(photo, image, WORDS, 0.001)
  assert not any(kind == "ask_colour" for kind, _ in found(mixed))
