"""Sides and colours that a mask contradicts, and what is no contradiction."""

import numpy as np
import pytest

from input_pipeline import words as words_lib
from input_pipeline.audit import texts
from tests.input_pipeline.audit.made import (
  LEFT,
  RIGHT,
  Made,
  audited,
  conversation,
  mask,
  photo,
)

WORDS = words_lib.load()


def kinds(*records):
  return audited(Made(*records))[0]


def named(name, place, **options):
  return conversation(targets=[(name, mask(place))], **options)


@pytest.mark.parametrize("name", ["left cup", "cup left", "linke Tasse", "左杯子"])
def test_a_name_with_a_side_and_its_mask_on_the_other_is_found(name):
  assert kinds(named(name, RIGHT)) == {"wrong_side": 1}
  assert kinds(named(name, LEFT)) == {}


def test_the_finding_tells_where_the_mask_is():
  _, lines = audited(Made(named("left cup", RIGHT)))
  assert lines == [
    "val:0: 'left cup' is said to be left; its mask lies between 62% and 95% of the"
    " width, its centre at 79%"
  ]


@pytest.mark.parametrize(
  "name",
  [
    "cup left of the plate", "second cup from the left", "leftmost cup", "left shoe",
    "left and right cup", "person with the left cup", "leftover",
  ],
)  # fmt: skip
def test_a_side_of_something_else_contradicts_nothing(name):
  assert kinds(named(name, RIGHT)).get("wrong_side", 0) == (name == "leftover")


def test_a_left_one_of_two_on_the_right_is_left():
  near = mask((slice(10, 40), slice(44, 58)))
  pair = [("left cup", near), ("right cup", mask((slice(10, 40), slice(62, 78))))]
  assert kinds(conversation(targets=pair)) == {}
  exchanged = [("left cup", pair[1][1]), ("right cup", pair[0][1])]
  assert kinds(conversation(targets=exchanged)) == {"wrong_side": 1}


def told(answer, question="Where is the cup?"):
  return named("cup", RIGHT, turns=(("user", question), ("assistant", answer)))


@pytest.mark.parametrize(
  ("answer", "is_wrong"),
  [
    ("It is on the left [SEG].", True),
    ("It is on the left side of the picture [SEG].", True),
    ("It is on the left of the plate [SEG].", False),
    ("It is not on the left [SEG].", False),
    ("A dog is on the left. The cup is here [SEG].", False),
    ("It is on the right [SEG].", False),
    ("Only one is left [SEG].", False),
  ],
)
def test_the_sentence_of_a_mask_may_contradict_it(answer, is_wrong):
  assert kinds(told(answer)) == ({"wrong_side": 1} if is_wrong else {})


def test_the_question_of_a_single_mask_may_contradict_it():
  assert kinds(told("Sure, [SEG].", "The cup on the left, please.")) == {
    "wrong_side": 1
  }


def painted(name, **places):
  place = next(iter(places.values()))
  return named(name, place, image=photo(5, **places))


def test_a_colour_that_hardly_a_pixel_of_the_mask_has_is_found():
  counts, lines = audited(Made(painted("red cup", blue=LEFT)))
  assert counts == {"wrong_colour": 1}
  assert lines == [
    "val:0: 'red cup' names red: 0% of the pixels of mask 0 agree, 100% refute it,"
    " most are blue"
  ]


@pytest.mark.parametrize(
  ("name", "colour"),
  [
    ("red cup", "red"), ("rote Tasse", "red"), ("pink cup", "red"),
    ("cup with a red rim", "blue"), ("red and blue cup", "blue"),
    ("'RED' sign", "blue"),
    ("person in red", "blue"), ("red cup", "white"), ("white cup", "white"),
  ],
)  # fmt: skip
def test_colours_that_agree_or_that_may_be_of_something_else_are_silent(name, colour):
  assert kinds(painted(name, **{colour: LEFT})) == {}


@pytest.mark.parametrize(
  ("name", "colour"), [("white cup", "blue"), ("black cup", "white")]
)
def test_black_and_white_are_refuted_by_clear_pixels(name, colour):
  assert kinds(painted(name, **{colour: LEFT})) == {"wrong_colour": 1}


def test_a_grey_picture_refutes_no_colour():
  grey = np.repeat(photo(5).mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
  assert kinds(named("red cup", LEFT, image=grey)) == {}


def test_the_sentence_of_a_mask_is_that_of_its_seg():
  turns = (
    ("user", "What is there?"),
    ("assistant", "A dog. A [OBJ]cup[SEG] and [SEG]! Here: [SEG]"),
    ("user", "And now?"),
    ("assistant", "The table [SEG]."),
  )
  sentences = [said.sentence for said in texts.said_of_targets(turns, 4)]
  assert sentences == ["", "", "Here:", "The table"]
