"""Splits that are hardly there, and data sets of every kind: right numbers, no NaN."""

import dataclasses
import json

import numpy as np
import pytest

from input_pipeline.builders import registry
from input_pipeline.builders.build import build
from miras_jax.inference import rollout
from tests import prist_files, talker
from tests.evaluation import test_command as usual
from tests.evaluation.test_command import RECORDS, evaluate


@pytest.fixture(autouse=True)
def no_teacher_forcing(monkeypatch):
  monkeypatch.setattr(rollout.Forced, "masks", usual.no_masks)


def strict(result):
  """JSON without NaN, as metrics.json is written."""
  return json.loads(json.dumps(result, allow_nan=False))


def test_a_split_of_one_record():
  found = strict(evaluate(items=RECORDS[:1]).result)
  assert found["metrics"]["ciou"] == {"value": 1.0, "low": None, "high": None, "n": 1}
  assert found["data"]["images"] == 1
  assert not found["controls"].keys() & {"swapped_conversation", "swapped_image"}
  assert "last_turn_only" in found["controls"]


def test_a_split_of_only_empty_targets():
  items = [RECORDS[2], dataclasses.replace(RECORDS[2], id="val/3", image_id="green")]
  found = strict(evaluate(items=items).result)
  none = {"value": None, "low": None, "high": None, "n": 0}
  # On blue pictures the script's mask is empty, so that no target has a pixel.
  assert found["metrics"]["ciou"] == found["metrics"]["miou_no_empty"] == none
  assert found["metrics"]["no_target_accuracy"]["value"] == 1.0
  assert found["metrics"]["giou"]["value"] == 1.0


def test_a_split_without_targets():
  turns = (("user", "Hello"), ("assistant", "The left half, yes."))
  items = [dataclasses.replace(r, turns=turns, targets=()) for r in RECORDS]
  found = strict(evaluate(items=items).result)
  assert found["data"]["targets"] == 0 and found["metrics"]["ciou"]["n"] == 0
  assert found["metrics"]["seg_rate"]["value"] is None
  assert found["metrics"]["false_seg_rate"]["value"] == 0.0


def test_two_conversations_of_one_id_are_both_scored():
  items = [RECORDS[0], dataclasses.replace(RECORDS[1], id=RECORDS[0].id), RECORDS[2]]
  twins, apart = evaluate(items=items), evaluate()
  assert twins.result["metrics"] == apart.result["metrics"]
  assert [line["id"] for line in twins.predictions] == ["val/0", "val/0", "val/2"]
  assert [line["turns"][0]["user"] for line in twins.predictions] == [
    line["turns"][0]["user"] for line in apart.predictions
  ]


def test_a_score_that_is_no_number_is_none(monkeypatch):
  put = talker.FakeGenerator.put_masks

  def broken(self, out, b, names):
    out["iou"][b] = np.nan
    put(self, out, b, names)

  monkeypatch.setattr(talker.FakeGenerator, "put_masks", broken)
  (target,) = strict(evaluate(items=RECORDS[:1]).predictions[0])["targets"]
  assert target["predicted_iou"] is None and target["iou"] == 1.0


def test_the_lines_are_enough_to_score_them():
  (line,) = evaluate(items=RECORDS[:1]).predictions
  (target,) = line["targets"]
  assert target["true"] == RECORDS[0].targets[0][1]
  assert target["predicted_iou"] == 0.5
  (mask,) = line["turn_masks"]
  assert mask == {
    "turn": 1, "index": 0, "mask": target["mask"], "predicted_iou": 0.5
  }  # fmt: skip


@pytest.mark.parametrize("scheme", ["tfds:", ""])
def test_what_miras_data_build_wrote_is_evaluated(tmp_path, monkeypatch, scheme):
  prist_files.write(tmp_path / "src", [prist_files.record()] * 2)
  build(registry.make("prist"), tmp_path / "src", tmp_path / "built")
  loaded = talker.loaded(lambda prompt, image: ("Sure, [SEG].", ["all"]))
  loaded = loaded._replace(config=usual.Config(), step=7)
  usual.stand_in(monkeypatch, loaded, usual.RunConfig())
  options = [f"--data={scheme}{tmp_path / 'built'}", f"--out={tmp_path / 'out'}"]
  assert usual.eval_command.main(["--checkpoint=x", *options]) == 0
  found = json.loads((tmp_path / "out" / "metrics.json").read_text())
  assert found["data"]["conversations"] == 2 and found["data"]["defective"] == []
  assert 0 < found["metrics"]["ciou"]["value"] < 1
