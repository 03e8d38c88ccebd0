"""Evaluation with a scripted model, whose right numbers are known."""

import dataclasses
import io
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from input_pipeline import mask_ops, records
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.evaluation import command as eval_command
from miras_jax.evaluation import controls
from miras_jax.evaluation import evaluate as evaluation
from miras_jax.inference import rollout
from miras_jax.inference.conversation import Answer
from tests import prist_files, talker

SIZE = 16
FORCED_MASKS = rollout.Forced.masks
OPTIONS = evaluation.Options(batch_size=4, resamples=20)
LEFT, TOP = np.zeros((2, SIZE, SIZE), np.uint8)
LEFT[:, : SIZE // 2] = 1
TOP[: SIZE // 2] = 1
EMPTY = np.zeros((SIZE, SIZE), np.uint8)


def picture(colour):
  stream = io.BytesIO()
  Image.new("RGB", (SIZE, SIZE), colour).save(stream, "PNG")
  return stream.getvalue()


def conversation(i, image, word, mask):
  """Two turns: only the first says which part, only the second asks for a mask."""
  return records.SegConversation(
    id=f"val/{i}",
    source="test",
    image=picture(image),
    image_id=image,
    turns=(
      ("user", f"I mean the {word} half."),
      ("assistant", f"The {word} half, yes."),
      ("user", "Segment it."),
      ("assistant", "It is [SEG]."),
    ),
    targets=((word, mask_ops.encode_rle(mask)),),
  )


RECORDS = [
  conversation(0, "red", "left", LEFT),
  conversation(1, "red", "top", TOP),
  conversation(2, "blue", "left", EMPTY),
]


def script(prompt, image):
  """A model that listens and looks: on red images it finds the half that was named."""
  word = next((w for w in ("left", "top") if w in prompt), "none")
  if "Segment it." not in prompt:
    return f"The {word} half, yes.", []
  return "It is [SEG].", [word if image[0, 0, 0] > 128 else "none"]


def evaluate(script=script, items=RECORDS, **changes):
  options = dataclasses.replace(OPTIONS, **changes)
  return evaluation.evaluate(talker.loaded(script), items, options)


@pytest.fixture(autouse=True)
def no_teacher_forcing(monkeypatch):
  """The scripted model cannot be teacher-forced."""
  monkeypatch.setattr(rollout.Forced, "masks", no_masks)


def no_masks(self, items):
  return {i: [None] * len(record.targets) for i, record in items.items()}


class PositionModel:
  """Each mask's logits are the position of its [SEG]."""

  def apply(self, variables, batch):
    shape = (*batch["seg_pos"].shape, 2, 2)
    pos_BMHW = jnp.broadcast_to(batch["seg_pos"][..., None, None], shape)
    return {"mask_logits": pos_BMHW}


def forced(items, **changes):
  loaded = talker.loaded(script, **changes)._replace(model=PositionModel())
  views_of = evaluation.ImageViews(items, loaded.data)
  return FORCED_MASKS(
    rollout.Forced(loaded, views_of, batch_size=2), dict(enumerate(items))
  )


def test_teacher_forced_masks_belong_to_their_seg():
  found = forced(RECORDS)
  assert [len(found[i]) for i in range(3)] == [1, 1, 1]
  assert found[0][0][0, 0] == found[2][0][0, 0] > 10  # "left" twice: one length


def test_teacher_forced_target_that_does_not_fit_has_no_mask():
  """The first round, with its [SEG], is dropped from a row that is too short."""
  mask = RECORDS[0].targets[0]
  turns = (("user", "x " * 60), ("assistant", "[SEG]"), *RECORDS[0].turns)
  item = dataclasses.replace(RECORDS[0], turns=turns, targets=(mask, mask))
  first, second = forced([item])[0]
  assert first is None and second is not None


def ciou(result, *path):
  for name in path:
    result = result[name]
  return result["ciou"]["value"]


def test_a_model_that_listens_and_looks_is_perfect():
  result = evaluate().result
  assert ciou(result, "metrics") == 1.0
  assert result["metrics"]["giou"]["value"] == 1.0
  assert result["metrics"]["seg_rate"]["value"] == 1.0


def test_controls_take_away_what_they_say():
  result = evaluate().result
  assert ciou(result, "controls", "swapped_conversation") == pytest.approx(1 / 3)
  assert ciou(result, "controls", "last_turn_only") == 0.0
  assert ciou(result, "controls", "swapped_image") == 0.0


def test_a_deaf_model_is_unmoved_by_the_controls_of_the_conversation():
  result = evaluate(lambda prompt, image: ("It is [SEG].", ["left"])).result
  main = ciou(result, "metrics")
  assert ciou(result, "controls", "last_turn_only") == main
  assert ciou(result, "controls", "swapped_conversation") == main


def test_own_answers_become_the_history():
  def stubborn(prompt, image):
    return ("It is blue.", []) if "Segment" not in prompt else ("[SEG]", ["left"])

  loaded = talker.loaded(stubborn)
  options = dataclasses.replace(OPTIONS, controls=False)  # one has the gold history
  evaluation.evaluate(loaded, RECORDS, options)
  last = [p for p in loaded.model.prompts if "Segment it." in p and "half" in p]
  assert last and all("It is blue." in p for p in last)


def test_gold_history_ignores_what_the_model_said():
  loaded = talker.loaded(lambda prompt, image: ("It is blue.", []))
  options = dataclasses.replace(OPTIONS, history="gold")
  evaluation.evaluate(loaded, RECORDS, options)
  assert not any("It is blue." in p for p in loaded.model.prompts)
  assert any("The left half, yes." in p for p in loaded.model.prompts)


def test_answer_without_seg_counts_as_an_empty_mask():
  result = evaluate(lambda prompt, image: ("I will not.", [])).result
  assert ciou(result, "metrics") == 0.0
  assert result["metrics"]["seg_rate"]["value"] == 0.0
  assert result["metrics"]["no_target_accuracy"]["value"] == 1.0
  assert result["metrics"]["ciou"]["n"] == 2  # the empty target adds no pixels


def test_surplus_seg_is_counted_and_never_scored():
  result = evaluate(lambda prompt, image: ("[SEG][SEG]", ["left", "top"])).result
  assert result["metrics"]["false_seg_rate"]["value"] == 1.0
  assert result["metrics"]["surplus_seg"]["value"] == 1.5  # 2 and 1 in two answers
  assert result["data"]["targets"] == 3


def test_every_batch_has_one_shape():
  loaded = talker.loaded(script)
  evaluation.evaluate(loaded, RECORDS, OPTIONS)
  assert len(loaded.model.shapes) == 2  # one of images, one of tokens


def test_question_that_does_not_fit_is_counted_and_scores_nothing():
  long = dataclasses.replace(
    RECORDS[0], turns=(("user", "left " * 3000), *RECORDS[0].turns[1:])
  )
  result = evaluate(items=[long, *RECORDS[1:]]).result
  assert result["data"]["questions_too_long"] > 0
  assert result["metrics"]["ciou"]["value"] < 1.0


def test_without_a_second_image_the_swaps_do_not_run():
  result = evaluate(items=RECORDS[:2]).result
  controls = result["controls"]
  assert list(controls) == ["last_turn_only", "attribute_lie", "absent_target"]


def test_controls_can_be_left_out():
  assert evaluate(controls=False).result["controls"] == {}


def test_partner_of_a_swap_has_another_target_on_the_same_image():
  assert controls.partners(RECORDS) == [1, 0, None]
  twin = dataclasses.replace(RECORDS[0], id="val/9")
  assert controls.partners([RECORDS[0], twin]) == [None, None]


def test_swapped_masks_pair_from_the_last_backwards():
  say = Answer
  answers = [say("", 1, np.full((1, 2, 2), 1)), say("", 1, np.full((1, 2, 2), 2))]
  assert [m[0, 0] for m in controls.pick_last(answers, 1)] == [2]
  assert controls.pick_last(answers, 3)[0] is None


def test_gold_answers_are_spelt_as_in_training():
  names = iter(["cup", "dog"])
  spelt = controls.with_names("Here: [SEG] and [SEG].", names)
  assert spelt == "Here: [OBJ]cup[SEG] and [OBJ]dog[SEG]."


def test_predictions_hold_texts_masks_and_iou():
  line = evaluate().predictions[1]
  assert line["turns"][0]["answer"] == "The top half, yes."
  np.testing.assert_array_equal(mask_ops.decode_rle(line["targets"][0]["mask"]), TOP)
  assert line["targets"][0]["iou"] == 1.0
  json.dumps(line)


def test_per_turn_names_the_turn_of_the_mask():
  assert list(evaluate().result["per_turn"]) == ["2"]


def test_kinds_of_prist_x_are_those_of_its_records_alone():
  """One record with a kind in its id among others, whose targets it must not take."""
  items = list(RECORDS)
  items[1] = dataclasses.replace(items[1], id="0/1 (new part)")
  kinds = evaluate(items=items).result["kinds"]
  assert kinds["edit"]["new"]["giou"] == kinds["of"]["part"]["giou"]
  assert kinds["of"]["part"]["ciou"]["value"] == 1.0
  assert kinds["of"]["part"]["ciou"]["n"] == 1
  assert "kinds" not in evaluate().result


class Config:
  """Stands in for a RunConfig."""

  def to_json(self):
    return '{"steps": 1}'


def stand_in(monkeypatch, loaded, config):
  """The command finds `loaded`, of a run with this RunConfig, at any checkpoint."""
  monkeypatch.setattr(eval_command.devices, "load", lambda args: loaded)
  monkeypatch.setattr(eval_command, "read_config", lambda checkpoint: config)
  monkeypatch.setattr(eval_command, "find_step", lambda checkpoint: 7)
  monkeypatch.setattr(eval_command, "find_identity", lambda checkpoint: "abc")


def command(tmp_path, monkeypatch, *flags, items=None):
  items = items or [prist_files.record(), prist_files.record(focus="cup")]
  prist_files.write(tmp_path / "data", items)
  loaded = talker.loaded(lambda p, i: ("Sure, [SEG].", ["all"]))
  loaded = loaded._replace(config=Config(), step=7)
  stand_in(monkeypatch, loaded, RunConfig())
  arguments = [f"--data={tmp_path / 'data'}", f"--out={tmp_path / 'out'}"]
  return eval_command.main(["--checkpoint=runs/x", *arguments, *flags])


def test_command_writes_every_file_of_the_report(tmp_path, monkeypatch, capsys):
  assert command(tmp_path, monkeypatch) == 0
  names = {p.name for p in (tmp_path / "out").iterdir()} - {".lock"}
  assert names == {"metrics.json", "predictions.jsonl", "index.html", "overlays.png"}
  assert "ciou" in capsys.readouterr().out


def test_metrics_json_has_the_keys_others_rely_on(tmp_path, monkeypatch):
  command(tmp_path, monkeypatch)
  result = json.loads((tmp_path / "out" / "metrics.json").read_text())
  assert {"metrics", "controls", "config", "data", "checkpoint"} <= result.keys()
  assert result["checkpoint"] == "runs/x" and result["step"] == 7
  for name in ("ciou", "giou", "f1_micro", "p@0.9", "biou", "roi_accuracy", "seg_rate"):
    assert result["metrics"][name].keys() == {"value", "low", "high", "n"}


def test_defective_record_is_named_and_counted(tmp_path, monkeypatch, capsys):
  items = [prist_files.record(), prist_files.record(focus="no such thing")]
  command(tmp_path, monkeypatch, items=items)
  result = json.loads((tmp_path / "out" / "metrics.json").read_text())
  assert result["data"]["conversations"] == 1
  assert result["data"]["defective"][0].startswith("val.json:1: ")
  assert "val.json:1: " in capsys.readouterr().err


def test_limit_takes_the_first_conversations(tmp_path, monkeypatch):
  command(tmp_path, monkeypatch, "--limit=1")
  result = json.loads((tmp_path / "out" / "metrics.json").read_text())
  assert result["data"]["conversations"] == 1


@pytest.mark.parametrize(
  "flag, words",
  [
    ("--limit=0", "--limit=0 must be at least 1"),
    ("--history=mine", "invalid choice"),
    ("--split=nope", "no split 'nope'"),
    ("--bach_size=3", "did you mean '--batch_size'"),
    ("--out=/dev/null/x", "cannot be written"),
  ],
)
def test_users_mistakes_are_one_line(tmp_path, monkeypatch, flag, words):
  with pytest.raises(UserError, match=words):
    command(tmp_path, monkeypatch, flag)


def test_only_defective_records_is_a_users_mistake(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="no usable record"):
    command(tmp_path, monkeypatch, items=[prist_files.record(focus="no such thing")])


def test_what_the_numbers_depend_on_is_in_metrics_json(tmp_path, monkeypatch, capsys):
  command(tmp_path, monkeypatch, "--limit=1", "--history=gold")
  found = json.loads((tmp_path / "out/metrics.json").read_text())
  assert found["options"]["limit"] == 1 and found["options"]["history"] == "gold"
  assert found["options"]["weights"] == "trained" and found["data"]["records"] == 2
  assert "1 conversations of the 2 in val" in capsys.readouterr().out


def test_every_control_says_by_what_it_is_read():
  """cIoU with a target that is not there is 0 for any mask."""
  result = evaluate().result
  measures = result["control_measures"]
  assert measures.keys() == result["controls"].keys()
  assert measures.pop("absent_target") == "no_target_accuracy"
  assert set(measures.values()) == {"ciou"}


def test_what_was_left_out_is_told_in_the_terminal_too(tmp_path, monkeypatch, capsys):
  items = [prist_files.record(), prist_files.record(img_id="gone.png")]
  command(tmp_path, monkeypatch, items=items)
  assert "1 left out, since their records are defective." in capsys.readouterr().out
