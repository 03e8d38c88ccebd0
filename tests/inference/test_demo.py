"""The demo that ships is a trained model: it answers, and its masks follow the talk."""

import io
import json

import pytest

from input_pipeline.open_source import open_source
from input_pipeline.prepare import synth
from miras_jax.checkpoint.command import num_bytes
from miras_jax.errors import UserError
from miras_jax.evaluation.evaluate import Options, evaluate
from miras_jax.evaluation.records import read_records
from miras_jax.inference import command, demo
from miras_jax.inference.load import open_checkpoint

SCRIPT = "\n".join(line.strip() for line in demo.HINT.splitlines()[1:])


def test_demo_is_smaller_than_four_megabytes():
  assert num_bytes(demo.FOLDER) < 4e6


def test_chat_needs_no_file_to_talk_to_the_demo(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr("sys.stdin", io.StringIO(SCRIPT))
  assert command.main(["--demo", f"--out={tmp_path}"]) == 0
  assert capsys.readouterr().out.count("miras> ") == SCRIPT.count("\n") + 1
  assert list(tmp_path.glob("*_mask_1.png"))


def test_chat_without_a_checkpoint_names_the_demo():
  with pytest.raises(UserError, match="--checkpoint is missing; .*--demo"):
    command.main(["--image=a.png"])


def test_masks_of_the_demo_follow_conversations_it_has_never_seen(tmp_path):
  """The whole way in one number: data, model, weights, both kinds of answers."""
  synth.generate(tmp_path / "data", 120, seed=7)
  source = open_source(tmp_path / "data", "train")
  records = read_records(source, 12, shown="data")
  found = evaluate(
    open_checkpoint(demo.MODEL),
    records.records,
    Options(controls=False, batch_size=24, resamples=10),
    image_of=records.image_of,
  ).result
  assert json.dumps(found)
  assert found["metrics"]["ciou"]["value"] > 0.55
  assert found["teacher_forced"]["ciou"]["value"] > 0.55
