"""Names, small masks, coordinates from 0 to 1, control tokens, defective records."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.records import RecordError
from tests.input_pipeline.audit.made import (
  LEFT,
  RIGHT,
  Made,
  audited,
  conversation,
  mask,
)


def kinds(*records, **options):
  return audited(Made(*records), **options)[0]


def test_a_clean_set_is_silent():
  one = conversation(targets=[("cup", mask(LEFT)), ("plate", mask(RIGHT))])
  two = conversation(targets=[("cup", mask(LEFT)), ("", mask())])
  assert audited(Made(one, two)) == ({}, [])


def test_one_name_for_two_masks_of_a_picture_is_found():
  first, second = (conversation(targets=[("Cup", mask(p))]) for p in (LEFT, RIGHT))
  counts, lines = audited(Made(first, second))
  assert counts == {"ambiguous_name": 1}
  assert lines == ["val:1: 'Cup' has another mask in record 0"]


def test_one_name_in_two_pictures_is_none():
  assert kinds(conversation(0), conversation(1, targets=[("cup", mask(RIGHT))])) == {}


def test_a_name_inside_another_with_another_mask_is_found():
  pair = [("cup", mask(LEFT)), ("shadow of the cup", mask(RIGHT))]
  counts, lines = audited(Made(conversation(targets=pair)))
  assert counts == {"contained_name": 1}
  assert lines == ["val:0: 'shadow of the cup' contains 'cup', another mask (record 0)"]


def test_a_name_inside_another_word_or_with_the_same_mask_is_none():
  pair = [("cup", mask(LEFT)), ("cupboard", mask(RIGHT)), ("tea cup", mask(LEFT))]
  assert kinds(conversation(targets=pair)) == {}


def test_targets_of_few_pixels_are_found_by_the_limit():
  small = conversation(targets=[("bee", mask((slice(30, 35), slice(30, 40))))])
  assert kinds(small, least_pixels=50) == {}
  counts, lines = audited(Made(small), least_pixels=51)
  assert counts == {"small_target": 1}
  assert lines == ["val:0: the mask of 'bee' has 50 pixels of 4,800"]


@pytest.mark.parametrize(
  ("place", "kind"),
  [
    ((slice(0, 1), slice(0, 1)), "unit_coordinates"),
    ((slice(0, 2), slice(0, 2)), "unit_coordinates"),
    ((slice(9, 10), slice(9, 10)), "small_target"),
  ],
)
def test_coordinates_from_0_to_1_leave_a_few_pixels_in_the_corner(place, kind):
  assert kinds(conversation(targets=[("cup", mask(place))])) == {kind: 1}


@pytest.mark.parametrize(
  ("user", "answer", "count"),
  [
    ("Where?", "Here [SEG].", 0),
    ("Where [SEG]?", "Here [SEG].", 1),
    ("<image>\nWhere?", "Here [SEG].", 1),
    ("Where?", "Here [seg] [SEG] </s>.", 1),
    ("USER: Where?", "ASSISTANT: [SEG]", 2),
    ("User: me?", "a < b and [1] [SEG]", 0),
  ],
)
def test_control_tokens_where_they_do_not_belong_are_found(user, answer, count):
  record = conversation(turns=(("user", user), ("assistant", answer)))
  assert kinds(record).get("control_token", 0) == count


def test_a_control_token_in_a_name_is_found():
  assert kinds(conversation(targets=[("cup [OBJ]", mask(LEFT))])) == {
    "control_token": 1
  }


def test_defective_records_are_named_and_the_others_audited():
  good, broken = conversation(0), dataclasses.replace(conversation(1), image=b"no")
  other_size = conversation(2, targets=[("cup", np.ones((5, 5), np.uint8))])
  missing = RecordError("val", 3, "no such file")
  tiny = conversation(4, targets=[("cup", mask((slice(0, 1), slice(0, 1))))])
  counts, lines = audited(Made(good, broken, other_size, missing, tiny))
  assert counts == {"defective": 3, "unit_coordinates": 1}
  starts = ["val:1: not an image", "val:2: the mask of 'cup'", "val:3: no such file"]
  assert [line[: len(s)] for line, s in zip(lines, starts, strict=False)] == starts


def test_a_record_without_a_picture_is_text_alone():
  text = conversation(targets=(), turns=(("user", "Hi"), ("assistant", "Hi")))
  assert kinds(dataclasses.replace(text, image=b"", image_id="")) == {}


def test_a_defective_record_hides_no_picture_of_the_next():
  lost, sound = RecordError("train", 0, "no answer"), conversation(0)
  train = Made(lost, sound, file="train")
  train.image_ids = ("0.png", "0.png")
  counts, lines = audited(train, Made(conversation(5, image_id="0.png")))
  assert counts == {"defective": 1, "equal_id": 1}
  assert lines[1].endswith("of train:1")


def test_any_number_of_threads_finds_the_same_in_the_same_order():
  small = [("bee", mask((slice(30, 35), slice(30, 40))))]
  records = [conversation(k // 2, targets=small) for k in range(40)]
  one, many = (audited(Made(*records), threads=n) for n in (1, 7))
  assert one == many and one[0] == {"small_target": 40}
  assert one[1][:2] == [
    f"val:{k}: the mask of 'bee' has 50 pixels of 4,800" for k in (0, 1)
  ]
