"""`launch/rehearsal.sh`: the published path, once, and what its exit status means."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from miras_jax.convert.folder import open_tree

ROOT = pathlib.Path(__file__).resolve().parents[1]
REAL = f'exec "{sys.executable}" -m miras_jax.cli "$@"'


def rehearse(folder, body, *options):
  """Runs the script in `folder`; `body` is what its `miras` does."""
  miras = folder / "miras"
  miras.write_text(f"#!/usr/bin/env bash\n{body}\n")
  miras.chmod(0o755)
  run_dir = {"MIRAS": str(miras), "MIRAS_REHEARSAL_DIR": str(folder / "run")}
  # One device, whatever this process simulates, and compiled as quickly.
  flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device" not in f]
  quick = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": " ".join(flags)}
  environment = os.environ | run_dir | quick
  return subprocess.run(
    ["bash", str(ROOT / "launch" / "rehearsal.sh"), *options],
    env=environment, capture_output=True, text=True,
  )  # fmt: skip


def distance(before, after, path):
  """Largest change of a leaf between two folders."""
  with open_tree(before) as old, open_tree(after) as new:
    return np.abs(new.read(path) - old.read(path)).max()


@pytest.mark.slow
def test_the_whole_published_path_trains_and_returns_equal(tmp_path):
  """One test, not four: workers that share the tests would rehearse twice."""
  run = rehearse(tmp_path, REAL, "--config.steps=1")
  assert run.returncode == 0, run.stderr
  assert re.fullmatch(r"rehearsal: ok in \d+ s", run.stdout.splitlines()[-1])
  start, stage1, stage2 = (tmp_path / "run" / n for n in ("start", "stage1", "stage2"))
  for path in ("projector/fc1/kernel", "mining/value_proj/kernel"):
    assert distance(start, stage1, path) > 0
  # Fresh adapters would be as far away as they are large, 0.1.
  assert 0 < distance(stage1, stage2, "llm/layers/attn/q_proj/lora_a") < 1e-3


@pytest.mark.parametrize("command", ["convert", "data", "train", "eval", "chat"])
def test_a_step_that_fails_ends_it(tmp_path, command):
  run = rehearse(tmp_path, f'[ "$1" != {command} ] || exit 3')
  assert run.returncode == 3
  assert "ok in" not in run.stdout


def test_questions_without_answers_end_it(tmp_path):
  run = rehearse(tmp_path, "true")
  assert run.returncode == 1
  assert "two questions, but not two answers" in run.stderr


def test_other_options_want_another_folder(tmp_path):
  rehearse(tmp_path, "true", "--config.seed=1")
  run = rehearse(tmp_path, "true")
  assert run.returncode == 1
  assert "was begun with the options '--config.seed=1'" in run.stderr
