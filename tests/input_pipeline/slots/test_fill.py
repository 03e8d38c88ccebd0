"""The slots of an example: who sees them, what they hold, and their labels."""

import numpy as np
import pytest

from input_pipeline.slots import fill, relations
from input_pipeline.slots.damage import damaged
from input_pipeline.slots.relations import UNRELATED

S = 32
NOTHING = dict.fromkeys(("drop", "damaged", "own", "wrong", "swapped", "user"), 0)


def row(answers, talks=None):
  """The row of one [SEG] at the end of each answer, an answer a number."""
  tokens = np.arange(2, 2 + 2 * len(answers), 2)  # each with a token before it
  loss = np.zeros(2 + 2 * len(answers), np.int32)
  loss[tokens] = 1
  for place, (before, now) in enumerate(zip(answers, answers[1:], strict=False), 1):
    loss[tokens[place] - 1] = before == now
  segments = np.ones_like(loss)
  segments[tokens] = talks or 1
  return {
    "seg_pos": tokens,
    "seg_valid": np.ones(len(answers), np.int32),
    "loss_mask": loss,
    "segments": segments,
  }


def boxes(*sides):
  masks = np.zeros((len(sides), S, S), np.uint8)
  for mask, (y0, y1, x0, x1) in zip(masks, sides, strict=True):
    mask[y0:y1, x0:x1] = 1
  return masks


FIRST, SECOND, PART = (2, 12, 2, 12), (2, 12, 18, 28), (2, 12, 2, 6)


def slots(sides, made_row, most=8, **shares):
  draws = fill.Draws(**NOTHING | shares) if shares else None
  masks = boxes(*sides)
  found = fill.slots(masks, made_row, 16, most=most, draw=draws and draws.of(0, 0))
  return found, masks


def test_a_seg_sees_the_masks_of_earlier_answers():
  found, _ = slots([FIRST, SECOND, PART], row([0, 1, 1]))
  np.testing.assert_array_equal(found["slot_seen"], [[0, 0, 0], [1, 0, 0], [1, 0, 0]])


def test_talks_of_a_packed_row_do_not_see_each_others_masks():
  found, _ = slots([FIRST, SECOND, PART], row([0, 1, 2], talks=[2, 3, 2]))
  np.testing.assert_array_equal(found["slot_seen"], [[0, 0, 0], [0, 0, 0], [1, 0, 0]])


def test_only_the_latest_are_seen():
  found, _ = slots([FIRST, SECOND, PART], row([0, 1, 2]), most=1)
  np.testing.assert_array_equal(found["slot_seen"][2], [0, 1, 0])


def test_a_mask_before_an_answer_in_words_is_there_to_be_read():
  """Nothing sees the masks of the answers before: no [SEG] comes after them."""
  made = row([0, 1, 2], talks=[2, 2, 3])
  made["seg_valid"][:] = [1, 0, 1]  # the second answer is words
  masks = boxes(FIRST, SECOND, PART)
  seen, read = (
    fill.slots(masks, made, 16, most=8, read=read)["slot_valid"]
    for read in (False, True)
  )
  assert seen.tolist() == [0, 0, 0] and read.tolist() == [1, 0, 0]


def test_labels_follow_from_the_masks():
  found, _ = slots([FIRST, SECOND, PART], row([0, 1, 2]))
  part, sibling = relations.PART, relations.SIBLING
  assert list(found["slot_relation"][2][:2]) == [part, sibling]
  assert list(found["slot_pointer"]) == [-1, 0, 0]


def test_a_slot_holds_shares_of_cells_of_the_true_mask():
  found, _ = slots([(0, 3, 0, 4), FIRST], row([0, 1]))
  np.testing.assert_array_equal(found["slot_masks"][0, :3, 0], [255, 128, 0])


def test_what_is_dropped_is_not_seen():
  found, _ = slots([FIRST, SECOND], row([0, 1]), drop=1.0)
  assert not found["slot_seen"].any() and not found["slot_masks"].any()
  assert (found["slot_pointer"] == -1).all()


def test_a_wrong_mask_is_unrelated_and_nobody_means_it():
  found, _ = slots([FIRST, PART], row([0, 1]), wrong=1.0)
  assert found["slot_relation"][1, 0] == UNRELATED
  assert found["slot_pointer"][1] == len(found["slot_valid"])


def test_a_slot_for_the_models_own_mask_names_its_seg():
  found, _ = slots([FIRST, PART], row([0, 1]), own=1.0)
  assert list(found["slot_own"]) == [0, -1]


def test_a_slot_for_the_models_own_mask_has_a_damaged_one_to_be_read():
  sides, made = [FIRST, PART], row([0, 1])
  own, damage = slots(sides, made, own=1.0)[0], slots(sides, made, damaged=1.0)[0]
  np.testing.assert_array_equal(own["slot_masks"], damage["slot_masks"])
  true, _ = slots(sides, made)
  assert (own["slot_masks"] != true["slot_masks"]).any()


def test_of_a_row_at_most_one_slot_in_four_is_for_the_models_own_mask():
  sides, made = [FIRST, SECOND, PART, FIRST, SECOND, PART], row(range(6))
  own, damage = slots(sides, made, own=1.0)[0], slots(sides, made, damaged=1.0)[0]
  assert list(own["slot_own"]) == [0, 1, -1, -1, -1, -1]
  np.testing.assert_array_equal(own["slot_masks"], damage["slot_masks"])


def test_who_repeats_a_swapped_slot_gets_its_mask_as_target():
  sides = [SECOND, FIRST, FIRST]
  found, masks = slots(sides, row([0, 1, 2], talks=[1, 2, 2]), swapped=1.0)
  np.testing.assert_array_equal(masks, boxes(SECOND, FIRST, SECOND))
  assert found["slot_origin"][1] == fill.USER
  assert found["slot_relation"][2, 1] == relations.SAME


def test_draws_are_the_same_for_the_same_seed_epoch_and_example():
  draws, made = fill.Draws(seed=3), row([0, 1, 2, 3])

  def of(epoch):
    masks = boxes(FIRST, SECOND, PART, FIRST)
    return fill.slots(masks, made, 16, most=8, draw=draws.of(epoch, 7))

  for name, value in of(0).items():
    np.testing.assert_array_equal(value, of(0)[name])
  differs = [(of(0)["slot_masks"] != of(e)["slot_masks"]).any() for e in range(1, 9)]
  assert any(differs)


@pytest.mark.parametrize("place", range(5))
def test_damage_changes_a_mask(place):
  mask = boxes(FIRST)[0]
  chance = {"kind": place, "reach": 0.9, "y": 2, "x": 2, "half": 0.1}
  made = damaged(mask, lambda name, low=0, high=1: chance[name])
  changed = (made != mask).any()
  assert changed == (place != 4)  # the box of a box is the box


def test_damage_of_nothing_is_nothing():
  assert not damaged(np.zeros((S, S), np.uint8), None).any()
