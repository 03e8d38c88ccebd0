"""A refused run says why and leaves nothing behind; one folder has one trainer."""

import logging
import subprocess
import sys
import textwrap
import time

import pytest

from configs import common
from miras_jax import cli
from miras_jax.checkpoint import lock, workdir
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.training import command, initial_state

HOLDER = """
import sys, time
from miras_jax.checkpoint import lock
with lock.hold(sys.argv[1], "miras train"):
  print("held", flush=True)
  time.sleep(60)
"""


def config(**changes):
  c = common.base_config()
  c.update(changes)
  return RunConfig.from_config_dict(c)


@pytest.fixture
def held(tmp_path):
  """(folder, the process that holds it)."""
  process = subprocess.Popen(
    [sys.executable, "-c", textwrap.dedent(HOLDER), str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield tmp_path, process
  process.kill()
  process.communicate()


def test_frozen_random_parts_are_refused_by_name():
  with pytest.raises(UserError, match="clip, convnext, llm, mining, projector, sam .*"):
    initial_state.refuse_random(config(trainable="lora_heads"))


@pytest.mark.parametrize(
  "changes",
  [{"trainable": "full"}, {"allow_random": True}, {"init_from": "published"}],
)
def test_what_trains_or_was_trained_may_begin(changes):
  assert initial_state.refuse_random(config(**changes)) is None


def test_a_refused_run_leaves_no_folder(tmp_path):
  argv = ["train", "--config=miras_7b_stage2:size=tiny", f"--workdir={tmp_path}/new"]
  with pytest.raises(UserError, match="--config.init_from=DIR"):
    cli.main(argv)
  assert not (tmp_path / "new").exists()


def test_a_refused_run_leaves_a_folder_that_was_there(tmp_path):
  (tmp_path / "mine.txt").write_text("kept")
  with pytest.raises(UserError):
    command.run(config(), workdir.Workdir(tmp_path))
  assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_trainer_that_comes_second_leaves_the_folder_of_the_first(
  tmp_path, monkeypatch
):
  def taken(path, *_):
    path.mkdir()  # by the first one, after the second saw that there was none
    (path / "tokenizer").touch()
    raise UserError("in use")

  monkeypatch.setattr(lock, "hold_together", taken)
  with pytest.raises(UserError, match="in use"):
    command.run(config(), workdir.Workdir(tmp_path / "new"))
  assert (tmp_path / "new/tokenizer").exists()


def test_a_second_trainer_learns_who_holds_the_folder(held):
  folder, process = held
  with pytest.raises(
    UserError, match=f"in use by `miras train` .process {process.pid}"
  ):
    command.run(config(), workdir.Workdir(folder))


def test_the_lock_of_a_killed_process_is_free(held):
  folder, process = held
  process.kill()
  process.wait()
  deadline = time.monotonic() + 5
  while lock.holder(folder) and time.monotonic() < deadline:
    time.sleep(0.05)
  with lock.hold(folder, "miras train"):
    assert "`miras train`" in lock.holder(folder)
  assert lock.holder(folder) == ""


def test_more_steps_say_what_becomes_of_the_rate(caplog, monkeypatch, tmp_path):
  monkeypatch.setattr(logging.getLogger("miras_jax"), "propagate", True)
  saved, longer = config(steps=100), config(steps=200)
  command._tell_rates(workdir.Workdir(tmp_path), saved, longer, 100)
  assert "the rate at step 100 is 0.0003 instead of 0" in caplog.text
