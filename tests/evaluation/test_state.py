"""What earlier masks are worth: relations of true masks, copies, repeats, swaps."""

import numpy as np
import pytest

from input_pipeline.mask_ops import decode_rle, encode_rle
from input_pipeline.records import SegConversation
from input_pipeline.slots import relations
from miras_jax.errors import UserError
from miras_jax.evaluation import controls, history, state, state_jobs
from miras_jax.evaluation.evaluate import Options, Work
from tests import tiny_loaded

HEIGHT, WIDTH = 64, 40
LEFT, RIGHT, PART = (4, 24, 2, 16), (4, 24, 22, 36), (4, 24, 2, 8)


def rle(*boxes):
  mask = np.zeros((HEIGHT, WIDTH), np.uint8)
  for y0, y1, x0, x1 in boxes:
    mask[y0:y1, x0:x1] = 1
  return encode_rle(mask)


def record(count=2, masks=None, number=0):
  """A conversation of so many masks, the same one unless others are given."""
  masks = masks or [rle(LEFT)] * count
  turns = []
  for _ in masks:
    turns += [("user", "which one"), ("assistant", "Sure, it is [SEG].")]
  return SegConversation(
    id=f"val/{number}",
    source="x",
    image=b"",
    turns=tuple(turns),
    targets=tuple(("cup", mask) for mask in masks),
    image_id="a.png",
  )


def line(true, made):
  """A line of predictions.jsonl, a mask a turn."""
  targets = [
    {"turn": t, "index": 0, "name": "cup", "produced": True, "mask": m, "true": g}
    for t, (g, m) in enumerate(zip(true, made, strict=True))
  ]
  return {"id": "val/0", "image": "a.png", "targets": targets}


def test_a_target_is_about_the_earlier_one_that_it_is_most_like():
  masks = [rle(LEFT), rle(RIGHT), rle(PART), rle(LEFT, RIGHT), rle(RIGHT)]
  found = history.history_of(record(masks=masks))
  none, sibling = (relations.UNRELATED, -1), (relations.SIBLING, 0)
  part, union = (relations.PART, 0), (relations.UNION, 1)
  assert found == [none, sibling, part, union, (relations.SAME, 1)]


def test_a_true_mask_comes_before_the_question_after_its_answer():
  slots = state_jobs.GoldSlots(record(count=3), tiny_loaded.loaded("tokens").data)
  assert [slot.before for slot in slots(2)] == [1, 2]


def test_a_mask_that_stays_though_another_is_wanted_is_a_copy():
  true = [rle(LEFT), rle(PART), rle(RIGHT)]
  found = state.measures([line(true, [rle(LEFT), rle(LEFT), rle(RIGHT)])])
  assert found["metrics"]["copying"]["value"] == 0.5
  assert found["turns"] == {"edits": 2, "part": 1, "sibling": 1}


def test_a_model_that_makes_no_mask_neither_copies_nor_repeats():
  true, nothing = [rle(LEFT), rle(PART), rle(PART)], rle()
  found = state.measures([line(true, [nothing] * 3)])["metrics"]
  assert found["copying"]["value"] == 0 and found["same_again"]["value"] == 0


def test_the_same_again_is_compared_with_the_models_own_mask_or_the_gold_one():
  true, made = [rle(LEFT), rle(LEFT)], [rle(PART), rle(PART)]
  own = state.measures([line(true, made)])
  gold = state.measures([line(true, made)], held="gold")
  assert own["metrics"]["same_again"]["value"] == 1.0
  assert gold["metrics"]["same_again"]["value"] < 0.5
  assert own["metrics"]["edits_ciou"]["value"] < 0.5


def test_the_slope_is_the_loss_from_one_mask_to_the_next():
  curve = {str(n): {"ciou": 0.9 - 0.1 * n, "targets": 3} for n in range(1, 5)}
  assert state.slope(curve) == pytest.approx(-0.1)


def test_an_answer_follows_the_swapped_slot_that_it_is_nearer_to():
  swaps = [("a", answer, rle(RIGHT), rle(LEFT)) for answer in (rle(RIGHT), None)]
  assert state.measures([], swaps)["swapped_follows"]["value"] == 0.5


def test_conversations_of_one_mask_have_no_such_measures():
  assert state.measures([line([rle(LEFT)], [rle(LEFT)])]) == {}


def test_gold_slots_are_the_true_masks_of_earlier_turns():
  data = tiny_loaded.loaded("dense").data
  slots = state_jobs.GoldSlots(record(masks=[rle(LEFT), rle(RIGHT)]), data)
  assert slots(0) == [] and len(slots(1)) == 1 and len(slots(2)) == 2
  assert slots(1)[0].cells_QQ.max() == 255


def test_a_swap_puts_another_object_of_the_image_where_a_mask_is_repeated():
  records = [record(2), record(masks=[rle(RIGHT)], number=1)]
  data = tiny_loaded.loaded("dense").data
  plan, swaps = state_jobs.with_swaps(controls.plan(records), records, data)
  assert [(s.record, s.place, s.earlier) for s in swaps] == [(0, 1, 0)]
  np.testing.assert_array_equal(decode_rle(swaps[0].mask), decode_rle(rle(RIGHT)))
  job = plan.jobs[plan.altered[-1][0]]
  assert job.slots(1)[0].origin == 1 and plan.altered[-1][1].name == "slot_swapped"


@pytest.mark.parametrize("asked", ["gold", "none"])
def test_state_asked_of_a_model_without_it_is_one_line(asked):
  with pytest.raises(UserError, match=f"--state={asked}"):
    Work(tiny_loaded.loaded(), [record()], Options(state=asked))
