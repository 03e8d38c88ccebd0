"""Conversations that lie, ask for what is not there, or come in another order."""

import dataclasses

import numpy as np
import pytest

from input_pipeline import mask_ops, records
from miras_jax.evaluation import altered, controls, dependence, metrics, rewordings
from miras_jax.evaluation import evaluate as evaluation
from tests import talker
from tests.evaluation.test_command import (
  LEFT,
  OPTIONS,
  RECORDS,
  SIZE,
  no_teacher_forcing,
  script,
)

__all__ = ["no_teacher_forcing"]  # a fixture that takes effect where it is imported
FULL = mask_ops.encode_rle(np.ones((SIZE, SIZE), np.uint8))
EMPTY = mask_ops.empty_rle(SIZE, SIZE)


def record(*turns, names=("red cup",), mask=FULL, image="a"):
  """Turns of question and answer in turn; a target for each [SEG]."""
  roles = ("user", "assistant") * (len(turns) // 2)
  return records.SegConversation(
    id="val/0",
    source="test",
    image=b"",
    image_id=image,
    turns=tuple(zip(roles, turns, strict=True)),
    targets=tuple((name, mask) for name in names),
  )


CUP = record("Where is the red cup?", "There.", "Segment it.", "[SEG]")
THREE = record(
  "I mean the cups.", "Two.", "The red one.", "Yes.", "Segment it.", "Here: [SEG]."
)


def plan(*items, gold=False, **options):
  talks = [altered.talk_of(item) for item in items]
  jobs, counts = altered.plan(talks, gold=gold, **options)
  return {job.name: job for job in jobs}, counts


def lie(text, name=""):
  swap = rewordings.attribute_lie([text], [name])
  return swap and swap(text)


@pytest.mark.parametrize(
  "said, told",
  [
    ("The red cup.", "The blue cup."),
    ("Red, please.", "Blue, please."),
    ("the leftmost cup", "the rightmost cup"),
    ("the biggest one", "the smallest one"),
    ("der rote Becher", "der blaue Becher"),
    ("红色的杯子", "蓝色的杯子"),
  ],
)
def test_an_attribute_is_swapped_for_another_of_its_kind(said, told):
  assert lie(said) == told


@pytest.mark.parametrize(
  "said",
  [
    "the cup",
    "the red cup beside the blue one",  # who can say which of them is the target's?
    "the cup that is not red",
    "All right, segment it.",
  ],
)
def test_no_lie_where_it_is_not_sure_what_is_untrue(said):
  assert lie(said) is None


def test_the_attribute_of_the_target_goes_first():
  said = "The red cup on the left."
  assert lie(said, "left cup") == "The red cup on the right."
  assert lie(said, "red cup") == "The blue cup on the left."


def test_a_lie_is_not_what_the_target_is():
  assert lie("the red cup", "red and blue cup") == "the green cup"
  assert lie("the grey cup") == "the red cup"  # not gray


def test_a_lie_is_told_in_every_turn_up_to_the_mask():
  found, counts = plan(CUP)
  assert found["attribute_lie"].job.questions == (
    "Where is the blue cup?",
    "Segment it.",
  )
  assert counts["attribute_lie"] == {"applies": 1, "asked": 1}


def test_a_mask_before_the_lie_is_not_scored_under_it():
  item = record(
    "All cups.", "[SEG]", "The red one.", "[SEG]", names=("cups", "red cup")
  )
  assert plan(item)[0]["attribute_lie"].places == (1,)


def test_absent_target_asks_for_a_thing_that_nobody_names():
  found, _ = plan(CUP, record("A panda?", "No.", names=()))
  assert found["absent_target"].job.questions[0] == "Where is the red gorilla?"


def test_absent_target_is_as_many_as_the_target():
  item = record("Mark the two cups.", "[SEG]", names=("two cups",))
  assert plan(item)[0]["absent_target"].job.questions == ("Mark the two pandas.",)


def test_absent_target_needs_the_noun_in_the_questions():
  item = record("Where can I drink from?", "[SEG]", names=("cup",))
  found, counts = plan(item)
  assert "absent_target" not in found and counts["absent_target"]["applies"] == 0


def test_an_empty_target_can_be_neither_lied_about_nor_absent():
  found, _ = plan(dataclasses.replace(CUP, targets=(("red cup", EMPTY),)))
  assert not {"attribute_lie", "absent_target"} & set(found)


def test_shuffled_history_keeps_the_request_last():
  found, _ = plan(THREE)
  questions = found["history_shuffled"].job.questions
  assert questions == ("The red one.", "I mean the cups.", "Segment it.")


def test_history_of_one_turn_or_of_equal_ones_is_not_shuffled():
  same = record("A cup.", "Yes.", "A cup.", "Yes.", "Segment it.", "[SEG]")
  assert "history_shuffled" not in plan(CUP)[0]
  assert "history_shuffled" not in plan(same)[0]


def test_gold_answers_move_with_their_questions():
  item = record(
    "All cups.", "[SEG]", "The red one.", "Yes.", "Segment it.", "[SEG]",
    names=("cups", "red cup"),
  )  # fmt: skip
  job = plan(item, gold=True)[0]["history_shuffled"].job
  assert job.gold == ("Yes.", "[SEG]", "[SEG]") and job.names == ("cups", "red cup")


def test_gold_history_is_for_turns_that_have_one():
  first = record("A cup.", "[SEG]")
  found, counts = plan(first, THREE)
  assert counts["gold_history"] == {"applies": 1, "asked": 1}
  assert found["gold_history"].job.gold == ("Two.", "Yes.", "Here: [SEG].")
  assert "gold_history" not in plan(THREE, gold=True)[0]


def test_sample_is_spread_over_the_data():
  jobs, counts = altered.plan([altered.talk_of(CUP)] * 9, gold=False, sample=3)
  asked = [job.record for job in jobs if job.name == "attribute_lie"]
  assert asked == [0, 4, 8] and counts["attribute_lie"] == {"applies": 9, "asked": 3}


def evaluate(script, items=RECORDS):
  return evaluation.evaluate(talker.loaded(script), items, OPTIONS).result


def test_a_model_that_listens_is_led_astray_by_a_lie():
  told = evaluate(script)["dependence"]["attribute_lie"]
  assert told["targets"] == told["conversations"] == 2  # the third is empty
  assert told["free_running"]["value"] == 1.0 and told["iou"]["value"] == 0.0
  assert told["change"]["value"] == -1.0 and told["empty"]["value"] == 1.0


def test_a_deaf_model_does_not_depend_on_what_is_said():
  told = evaluate(lambda prompt, image: ("It is [SEG].", ["left"]))["dependence"]
  for name in ("attribute_lie", "last_turn_only"):
    assert told[name]["change"]["value"] == 0.0


def test_control_that_applies_nowhere_is_absent():
  result = evaluate(script)
  assert "history_shuffled" not in result["controls"] | result["dependence"]
  assert result["data"]["altered"]["history_shuffled"]["applies"] == 0


@pytest.mark.parametrize("heard, right", [(False, 0.0), (True, 1.0)])
def test_right_answer_about_an_absent_target_is_an_empty_mask(heard, right):
  def segment(prompt, image):
    return "It is [SEG].", ["none" if heard and "panda" in prompt else "left"]

  item = dataclasses.replace(RECORDS[0], targets=(("half", RECORDS[0].targets[0][1]),))
  table = evaluate(segment, [item, RECORDS[2]])["controls"]["absent_target"]
  assert table["no_target_accuracy"]["value"] == table["giou"]["value"] == right
  assert table["miou_no_empty"]["value"] is None  # no target is there


def test_history_gap_is_what_gold_answers_would_gain():
  def forgetful(prompt, image):
    """Finds the half if it has been confirmed in the right words."""
    if "Segment it." not in prompt:
      return "Hm.", []
    return "[SEG]", ["left" if "The left half, yes." in prompt else "none"]

  gap = evaluate(forgetful, RECORDS[:1])["history_gap"]
  assert list(gap) == ["2"]
  values = {name: summary["value"] for name, summary in gap["2"].items()}
  assert values == {"gold": 1.0, "own": 0.0, "gap": 1.0}


def test_dependence_pairs_the_same_targets():
  targets = metrics.Targets(), metrics.Targets()
  for i, found in enumerate((LEFT, 1 - LEFT)):
    targets[0].add(found, LEFT, image=i)
    targets[1].add(LEFT, LEFT, image=i)
  tables = [x.table() for x in targets]
  found = dependence.dependence({"a": tables[0]}, {"a": tables[1]}, resamples=200)["a"]
  assert (found["iou"]["value"], found["free_running"]["value"]) == (0.5, 1.0)
  assert (found["change"]["low"], found["change"]["high"]) == (-1.0, 0.0)


def test_every_pass_of_a_plan_is_scored_on_targets_that_are_there():
  loaded = controls.plan([THREE, CUP])
  for _, use in loaded.altered:
    assert use.places and max(use.places) < 1
