"""The model card beside converted weights says what is known, and asks for the rest."""

import json
import logging
import shutil
import types

import pytest

from configs import prist_quickstart
from miras_jax.checkpoint import command as checkpoint_command
from miras_jax.checkpoint import workdir
from miras_jax.config.run import RunConfig
from miras_jax.convert import card
from miras_jax.convert.files import stream
from miras_jax.inference.demo import MODEL
from tests.convert.folders import convert, union


def result(step=4, **changed):
  """What `miras eval` writes, as far as a card looks."""
  cell = {"value": 0.5, "low": 0.25, "high": None}
  counts = {"conversations": 1200, "targets": 1300, "images": 400}
  data = counts | {"dir": "/home/me/data/mine", "split": "val", "history": "model"}
  table = {"ciou": cell}
  controls = {"last_turn_only": table}
  whole = {"step": step, "data": data, "metrics": table, "controls": controls}
  return json.dumps(whole | changed)


def write(run, text, name="report"):
  (run / name).mkdir()
  (run / name / "metrics.json").write_text(text)


def evaluation(run):
  """The card's part about the evaluation, of step 4 of a run."""
  source = types.SimpleNamespace(step=4, folder=workdir.Workdir(run))
  return card.evaluation(source)


def test_an_export_says_step_size_training_and_evaluation(run, tmp_path):
  write(run, result())
  shutil.copytree(MODEL / "tokenizer", run / "tokenizer")
  out = tmp_path / "out"
  checkpoint_command.main(["export", str(run), f"--out={out}", "--small"])
  text = (out / stream.CARD).read_text()
  assert "| step | 4 of " in text and "stored as bfloat16 |" in text
  assert "| what trained | lora_heads |" in text and "token_ce" in text
  assert "| ciou | 0.500 | 0.250 - - |" in text
  assert f"| licence | {card.FILL}" in text
  # No folder of the machine is in what is given away.
  assert "/home/me" not in text and str(tmp_path) not in text


def test_a_card_says_what_a_run_with_a_state_in_stages_was():
  c = prist_quickstart.get_config("stages")
  c.model.state, c.model.state_slots = "dense", 5
  run = RunConfig.from_config_dict(c)
  source = types.SimpleNamespace(step=3)
  text = "".join(card._training(types.SimpleNamespace(run=run, sources=[source])))
  assert "50% parts, then conversations" in text
  assert "1 presence" in text and "0.2 state_pointer" in text
  assert card._state(run.model) == "dense, the latest 5"


def test_it_repeats_the_evaluation_of_the_same_step(tmp_path):
  write(tmp_path, result(step=3), "earlier")
  write(tmp_path, result())
  text = evaluation(tmp_path)
  assert "1,200 conversations, 1,300 targets on 400 images of mine, split val" in text
  assert "| ciou, control: last turn only | 0.500 |" in text


def test_an_evaluation_of_another_step_is_not_its_own(tmp_path):
  write(tmp_path, result(step=3))
  assert evaluation(tmp_path).startswith(f"{card.FILL} `miras eval")


@pytest.mark.parametrize(
  "text",
  ["{", "[]", "{}", result(metrics=3), result(controls=[]), "[" * 100_000],
  ids=["cut", "list", "empty", "number", "no_controls", "deep"],
)
def test_a_damaged_evaluation_is_named_and_left_out(tmp_path, text, caplog):
  write(tmp_path, text)
  with caplog.at_level(logging.WARNING):
    assert evaluation(tmp_path).startswith(card.FILL)
  assert "report/metrics.json: not used for the model card" in caplog.text


def test_parts_that_are_random_are_named(parts, tmp_path):
  out = tmp_path / "start"
  convert(union(parts), "--new=projector,mining,seg_prompt", f"--dst={out}")
  text = (out / stream.CARD).read_text()
  assert "have to be trained:** mining, projector, seg_prompt." in text
  assert "| converted from | vicuna, clip, convnext, sam.pth |" in text


def test_weights_that_no_run_made_claim_no_training(ours, tmp_path):
  """Their config holds the defaults of a run that never was."""
  convert(f"--src={ours}", f"--dst={tmp_path / 'out'}")
  text = (tmp_path / "out" / stream.CARD).read_text()
  assert "## Training" not in text and "| converted from | ours |" in text


def test_an_exported_run_that_is_converted_again_still_says_how_it_trained(tmp_path):
  convert(f"--src={MODEL}", f"--dst={tmp_path / 'out'}")
  text = (tmp_path / "out" / stream.CARD).read_text()
  assert "| data | quickstart |" in text and "| optimizer | muon" in text


def test_a_card_that_was_filled_in_leaves_the_folder_whole(ours, capsys):
  (ours / stream.CARD).write_text("ours")
  convert(f"--verify={ours}")
  assert "whole" in capsys.readouterr().out
