"""Conversations about photographs that go on from their mask: the masks are true."""

import numpy as np
import pytest

from input_pipeline import mask_ops
from input_pipeline.narrate.wordings import Wordings
from input_pipeline.narrate.write import write
from tests.input_pipeline.narrate.drawn import draw, street

WORDS = Wordings.load()


def gone_on(photo, image, *, kind="name", edits=1.0, count=60):
  """[(user, mask before, mask after, its name)] of all turns that follow a mask."""
  talks = write(photo, image, "k", wordings=WORDS, per_photo=count, mix={kind: 1},
                edits=edits)  # fmt: skip
  out = []
  for turns, targets in talks:
    asked = [text for role, text in turns if role == "user"]
    masks = [(name, mask_ops.decode_rle(rle).astype(bool)) for name, rle in targets]
    assert len(asked) == len(masks)  # each of these has a mask
    for text, (_, before), (name, after) in zip(
      asked[1:], masks, masks[1:], strict=False
    ):
      out.append((text, before, after, name))
  return out


def region(photo, name):
  (rle,) = (r.rle for r in photo.regions if r.name == name)
  return mask_ops.decode_rle(rle).astype(bool)


def test_also_a_thing_is_both_and_without_it_the_other_alone():
  photo, image = street()
  found = gone_on(photo, image)
  added = [x for x in found if "lso the" in x[0] or x[0].startswith("Add")]
  gone = [x for x in found if x[0].startswith(("Now without", "Leave out"))]
  assert added and gone
  for text, before, after, name in added:
    word = next(r.name for r in photo.regions if f"the {r.name}" in text)
    np.testing.assert_array_equal(after, before | region(photo, word))
    assert name.endswith(f"and {word}")
  for text, before, after, _ in gone:
    word = next(r.name for r in photo.regions if f"the {r.name}" in text)
    np.testing.assert_array_equal(after, before & ~region(photo, word))


def test_the_left_half_lies_left_and_all_of_it_brings_the_rest_back():
  photo, image = street()
  found = gone_on(photo, image)
  halves = [x for x in found if "left half" in x[0]]
  whole = [x for x in found if x[0].startswith(("The whole", "No, all"))]
  assert halves and whole
  for _, before, after, name in halves:
    columns = np.flatnonzero(before.any(0))
    middle = (columns[0] + columns[-1] + 1) // 2
    np.testing.assert_array_equal(after[:, :middle], before[:, :middle])
    assert not after[:, middle:].any() and name.startswith("left half of ")
  assert all((after >= before).all() and after.sum() > before.sum()
             for _, before, after, _ in whole)  # fmt: skip


def test_the_same_again_is_the_same_mask():
  found = [x for x in gone_on(*street()) if "again, more" in x[0]]
  assert found
  for _, before, after, _ in found:
    np.testing.assert_array_equal(before, after)


def test_of_two_of_a_name_the_other_one():
  photo, image = draw(
    ("cup", (5, 40, 25, 60), "red"),
    ("cup", (80, 40, 100, 60), "blue"),
    ("hat", (50, 4, 70, 14), "white"),
  )
  talks = write(photo, image, "k", wordings=WORDS, per_photo=40, mix={"narrow": 1},
                edits=1.0)  # fmt: skip
  cups = [r.rle["counts"] for r in photo.regions[:2]]
  others = [
    {targets[k][1]["counts"], targets[k + 1][1]["counts"]}
    for turns, targets in talks
    for k, text in enumerate([t for r, t in turns if r == "user"][-len(targets) :][1:])
    if "other cup" in text
  ]
  assert others and all(pair == set(cups) for pair in others)


def test_a_part_and_the_rest_of_a_thing():
  photo, image = draw(
    ("car", (10, 30, 60, 60), "blue"),
    ("wheel", (15, 50, 25, 60), "black", 0),
    ("hat", (80, 4, 100, 14), "red"),
  )
  found = gone_on(photo, image)
  only = [x for x in found if "wheel" in x[0] and x[3] == "wheel"]
  rest = [x for x in found if x[3] == "car without its wheel"]
  assert only and rest
  wheel, car = region(photo, "wheel"), region(photo, "car")
  assert all((after == wheel).all() for _, _, after, _ in only)
  assert all((after == car & ~wheel).all() for _, _, after, _ in rest)


def test_without_edits_conversations_are_what_they_were():
  photo, image = street()
  kinds = {"wordings": WORDS, "per_photo": 8}
  assert write(photo, image, "k", **kinds) == write(
    photo, image, "k", edits=0.0, **kinds
  )


@pytest.mark.parametrize("kind", ["seek", "guess", "narrow"])
def test_a_conversation_of_any_kind_goes_on(kind):
  photo, image = street()
  talks = write(photo, image, "k", wordings=WORDS, per_photo=12, mix={kind: 1},
                edits=1.0)  # fmt: skip
  assert any(len(targets) > 1 for _, targets in talks)
