"""Metrics of lines of predictions.jsonl whose numbers are known."""

import math

import numpy as np
import pytest

from input_pipeline import mask_ops
from miras_jax.evaluation.line_metrics import LineMetrics


def rle(columns):
  """A mask of 10 x 10 pixels, the first columns of which are set."""
  mask = np.zeros((10, 10), np.uint8)
  mask[:, :columns] = 1
  return mask_ops.encode_rle(mask)


def target(turn=0, iou=1.0, predicted=None, mask=10, true=10, name="cup", index=0):
  return {
    "turn": turn, "index": index, "name": name, "produced": True, "iou": iou,
    "predicted_iou": predicted, "mask": rle(mask), "true": rle(true),
  }  # fmt: skip


def line(*targets, answers=("It is [SEG].",), golds=None, image="a", **more):
  turns = [
    {"user": "?", "answer": answer, "gold": gold, "num_seg": 1}
    for answer, gold in zip(answers, golds or answers, strict=True)
  ]
  return {"id": "x", "image": image, "turns": turns, "targets": list(targets)} | more


def measured(*lines, named=False):
  found = LineMetrics(named=named, resamples=50)
  for each in lines:
    found.add(each)
  return found


def value(found, name):
  return found.metrics()[name]["value"]


def test_grounded_accuracy_is_the_geometric_mean_of_answer_and_mask():
  half = line(target(iou=0.25), answers=("a b",), golds=("a c",))  # ROUGE-L 0.5
  assert value(measured(half), "grounded_accuracy") == pytest.approx(math.sqrt(0.125))
  assert value(measured(half), "grounded_accuracy_exact") == 0.0


def test_neither_right_words_nor_a_right_mask_alone_are_worth_anything():
  lines = [
    line(target(iou=0.0)),
    line(target(iou=1.0), answers=("dog",), golds=("cup",)),
  ]
  assert value(measured(*lines), "grounded_accuracy") == 0.0


def test_exact_words_do_not_mind_case_and_punctuation():
  same = line(target(iou=0.25), answers=("the CUP [SEG]",), golds=("The cup: [SEG].",))
  assert value(measured(same), "grounded_accuracy_exact") == 0.5


def test_name_before_the_seg_is_held_against_the_targets():
  answers = ("[OBJ]Cup[SEG] and [OBJ]dog[SEG]",)
  targets = target(index=0), target(index=1, name="cat")
  found = measured(
    line(*targets, answers=answers, golds=("[SEG] and [SEG]",)), named=True
  )
  assert value(found, "grounded_accuracy_name") == 0.5
  assert "grounded_accuracy_name" not in measured(line(target())).metrics()


def test_empty_target_is_named_nothing():
  said = line(target(name=""), answers=("[OBJ]nothing[SEG]",), golds=("[SEG]",))
  assert value(measured(said, named=True), "grounded_accuracy_name") == 1.0


def test_calibration_error_weighs_the_bins_by_their_share():
  lines = [
    line(target(iou=0.5, predicted=0.95)),
    line(target(iou=0.7, predicted=0.91)),
    line(target(iou=0.2, predicted=0.2)),
    line(target(iou=0.2, predicted=0.2)),
  ]
  found = measured(*lines)
  assert value(found, "ece") == pytest.approx((0.95 + 0.91 - 0.5 - 0.7) / 4)
  calibration = found.calibration()
  top = calibration["bins"][9]
  assert top["n"] == 2 and top["iou"] == pytest.approx(0.6)
  assert calibration["bins"][5] == {
    "low": 0.5, "high": 0.6, "n": 0, "predicted": None, "iou": None,
  }  # fmt: skip
  assert calibration["bias"] == pytest.approx(0.165)


def test_predicted_iou_past_its_range_is_in_the_last_bins():
  found = measured(line(target(iou=1.0, predicted=1.2), target(iou=0, predicted=-3.0)))
  bins = found.calibration()["bins"]
  assert bins[9]["n"] == bins[0]["n"] == 1


def test_model_that_predicts_no_iou_has_no_calibration():
  found = measured(line(target()))
  assert "ece" not in found.metrics() and found.calibration() == {}


def test_intent_drift_compares_each_turn_with_the_final_target():
  first, last = target(turn=0, mask=8, true=10), target(turn=1, mask=4, true=4)
  found = measured(line(first, last, answers=("[SEG]", "[SEG]"))).intent_drift()
  turns = {
    turn: {source: summary["value"] for source, summary in found["turns"][turn].items()}
    for turn in found["turns"]
  }
  assert turns == {"1": {"model": 0.5, "gold": 0.4}, "2": {"model": 1.0, "gold": 1.0}}
  ends = [found[name]["value"] for name in ("first", "last", "change")]
  assert ends == [0.5, 1.0, 0.5]


def test_masks_that_were_not_due_count_for_the_drift():
  made = [{"turn": 0, "index": 0, "mask": rle(1), "predicted_iou": None}]
  made += [{"turn": 1, "index": 0, "mask": rle(4), "predicted_iou": None}]
  last = target(turn=1, mask=4, true=4)
  each = line(last, answers=("[SEG]", "[SEG]"), turn_masks=made)
  assert measured(each).intent_drift()["first"]["value"] == 0.25


def test_several_masks_of_a_turn_are_one():
  first = [target(index=0, mask=4), target(index=1, mask=8)]
  last = target(turn=1, mask=8, true=8)
  found = measured(line(*first, last, answers=("[SEG][SEG]", "[SEG]")))
  assert found.intent_drift()["first"]["value"] == 1.0


def test_conversation_with_one_mask_has_no_drift():
  assert measured(line(target())).intent_drift() == {}


def test_lines_without_true_masks_are_passed_over():
  bare = target(turn=1)
  del bare["true"], bare["predicted_iou"]
  found = measured(line(target(), bare, answers=("[SEG]", "[SEG]")))
  assert found.intent_drift() == {} and found.metrics()["grounded_accuracy"]["n"] == 2


def test_no_lines_give_no_metrics_and_no_error():
  found = measured()
  assert found.metrics() == found.calibration() == found.intent_drift() == {}
