"""Stages of a run: where they end, what each gets, and that it goes on within one."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from miras_jax.checkpoint import workdir
from miras_jax.config.settings import MeshConfig, StagesChoice
from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import loop, stages, task
from miras_jax.training.meters import TIMINGS
from tests import prist_files
from tests.training.test_task import config_for
from tests.training.toy_runs import assert_same_parameters

pytestmark = pytest.mark.usefixtures("toy_world")  # caplog needs its loggers

THIRDS = {"stages.parts": 0.34, "stages.align": 0.33, "steps": 6}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Three images, each with a conversation of two rounds and one of one."""
  root = tmp_path_factory.mktemp("data")
  short = [prist_files.record(answer="Sure, [SEG].") for _ in range(3)]
  long = [prist_files.record(answer="It is the cup [SEG].") for _ in range(3)]
  for record in long:
    record["dialogue"] = [
      {"from": "human", "value": "What is there?"},
      {"from": "gpt", "value": "A cup and a plate."},
      *record["dialogue"],
    ]
  both = [record for pair in zip(long, short, strict=True) for record in pair]
  prist_files.write(root, both, split="train")
  return prist_files.write(root, short, split="val")


def staged(data_dir, **changes):
  base = {"checkpoint_every": 3, "keep": 5, "data.pack": 2, "batch_size": 2}
  # Less to compile: no held-out batch, and no encoder but SAM's.
  base |= {"data.split_eval": "", "model.encoder": "sam_only"}
  presence = {"model.overrides.sam_decoder.presence": True}
  return stages.noted(config_for(data_dir, **base | presence | THIRDS | changes))


def train(config, folder):
  place = workdir.Workdir(folder)
  mesh = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1])
  assert loop.train(task.make_task(config, place), place, mesh) == 0
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  timed = (*TIMINGS, "model_tflops_per_s")
  return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
  """(folder, rows) of a run of two steps in each stage."""
  folder = tmp_path_factory.mktemp("runs") / "whole"
  return folder, train(staged(data_dir), folder)


def test_stages_end_at_their_share_of_the_steps(data_dir):
  ends = stages.of(staged(data_dir, steps=100))
  assert [tuple(stage) for stage in ends] == [
    ("parts", 34), ("align", 67), ("talks", 100)
  ]  # fmt: skip


def test_a_run_that_gets_more_steps_keeps_the_ends_of_its_stages(data_dir):
  saved = staged(data_dir, steps=100)
  more = stages.noted(dataclasses.replace(saved, steps=300), saved)
  assert [stage.end for stage in stages.of(more)] == [34, 67, 300]


def test_a_stage_too_short_for_a_step_is_none(data_dir):
  config = staged(data_dir, **{"steps": 100, "stages.align": 0.001})
  assert [stage.name for stage in stages.of(config)] == ["parts", "talks"]
  assert config.optim.extended == "34:rewarm"


def test_a_share_that_rounds_to_all_steps_is_refused(data_dir):
  with pytest.raises(UserError, match="no step for conversations of steps=6"):
    staged(data_dir, **{"steps": 6, "stages.parts": 0.99, "stages.align": 0.0})


def test_a_run_without_stages_is_one(data_dir):
  plain = stages.noted(config_for(data_dir))
  assert stages.of(plain) == [("talks", 3)] and plain.stages.noted == ""


def test_stages_that_leave_no_step_for_conversations_are_refused():
  with pytest.raises(UserError, match="leave no step"):
    StagesChoice(parts=0.6, align=0.4)


def test_damaged_note_of_the_ends_is_refused(data_dir):
  config = config_for(data_dir, **{"stages.noted": "parts:x"})
  with pytest.raises(UserError, match="parts:STEP"):
    stages.of(config)


@pytest.mark.slow
def test_the_language_model_waits_in_the_first_of_three_stages(whole):
  found = [(row["stage"], "token_ce" in row) for row in whole[1]]
  assert found == [
    ("parts", False), ("parts", False), ("align", True), ("align", True),
    ("talks", True), ("talks", True),
  ]  # fmt: skip


def test_only_conversations_of_one_round_are_aligned(data_dir, tmp_path):
  made = task.make_task(staged(data_dir), workdir.Workdir(tmp_path))
  made.batches.enter("talks")
  long = [next(made.batches) for _ in range(2)]  # a pass over the three rows
  assert {r for rows in long for r in made.batches.records(rows)} == set(range(6))
  made.batches.enter("align")
  short = [next(made.batches) for _ in range(2)]
  assert {r for rows in short for r in made.batches.records(rows)} == {1, 3, 5}
  assert short[0]["tokens"].shape[1] < long[0]["tokens"].shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_goes_on_within_a_stage_and_between_two(whole, data_dir, tmp_path, stop):
  folder, rows = whole
  again = tmp_path / "again"
  shutil.copytree(folder, again)
  for step in workdir.Workdir(again).steps():
    if step > stop:
      shutil.rmtree(again / "checkpoints" / str(step))
  assert workdir.Workdir(again).steps()[-1] == stop
  np.testing.assert_equal(train(staged(data_dir), again), rows)
  assert_same_parameters(folder, again)


def test_without_a_short_conversation_that_stage_is_on_all(data_dir, tmp_path, caplog):
  records = json.loads((data_dir / "train.json").read_text())[::2]
  root = shutil.copytree(data_dir, tmp_path / "long")
  (root / "train.json").write_text(json.dumps(records))
  made = task.make_task(staged(root), workdir.Workdir(tmp_path / "run"))
  assert "no conversation of one round" in caplog.text
  made.batches.enter("align")
  assert set(made.batches.records(next(made.batches))) <= {0, 1, 2}
