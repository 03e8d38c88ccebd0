"""Saves into a bucket that fails now and then: said, gone on with, tried again."""

import time
import types

import numpy as np
import pytest

from miras_jax.checkpoint import bucket, workdir
from miras_jax.errors import UserError
from miras_jax.storage import reach

ARGS = types.SimpleNamespace(state=types.SimpleNamespace(item={"x": np.zeros(2)}))
AWAY = "Error writing gs://b/run: UNAVAILABLE"


class Orbax:
  """ocp.CheckpointManager, whose saves fail as told."""

  def __init__(self):
    self.started, self.failing, self.under_way = [], [], None

  def save(self, step, args):
    self.started.append(step)
    self.under_way = step
    return True

  def wait_until_finished(self):
    step, self.under_way = self.under_way, None
    if step in self.failing:
      self.failing.remove(step)
      raise ValueError(AWAY)  # as tensorstore does

  def check_for_errors(self):
    pass

  def all_steps(self):
    return []


@pytest.fixture
def orbax(monkeypatch):
  made = Orbax()
  monkeypatch.setattr(bucket.ocp, "CheckpointManager", lambda *_, **__: made)
  monkeypatch.setattr(time, "sleep", lambda _: None)
  return made


@pytest.fixture
def manager(orbax, tmp_path):
  return bucket.Manager(tmp_path / "checkpoints", keep=2)


def test_a_save_that_fails_later_is_an_alarm_and_training_goes_on(
  manager, orbax, caplog
):
  orbax.failing = [10]
  manager.save(10, args=ARGS)
  manager.save(20, args=ARGS)
  assert orbax.started == [10, 20]
  assert "ALARM" in caplog.text and "step 10 was not saved" in caplog.text


def test_the_last_save_is_tried_again_until_it_is_there(manager, orbax):
  orbax.failing = [20, 20]
  manager.save(20, args=ARGS)
  manager.wait_until_finished()
  assert orbax.started == [20, 20, 20] and not orbax.failing


def test_a_last_save_that_never_succeeds_is_one_line(manager, orbax, monkeypatch):
  monkeypatch.setenv("MIRAS_BUCKET_LIMIT_S", "1")
  orbax.failing = [20] * 99
  manager.save(20, args=ARGS)
  with pytest.raises(UserError, match="step 20 was not saved: the bucket does not"):
    manager.wait_until_finished()


def test_the_newest_steps_stay_and_older_ones_go(manager, tmp_path):
  folder = workdir.Workdir(tmp_path)
  for step in (1, 2, 3):
    folder.step(step).mkdir(parents=True)
    text = '{"commit_timestamp_nsecs": 1}'
    (folder.step(step) / workdir.METADATA).write_text(text)
  manager.save(4, args=ARGS)
  manager.wait_until_finished()
  assert folder.steps() == [2, 3]


def test_a_step_that_is_deleted_is_none_before_its_files_go(monkeypatch):
  gone = []

  class Folder(str):
    def __truediv__(self, name):
      return types.SimpleNamespace(unlink=lambda: gone.append(name))

    def rmtree(self):
      gone.append("the rest")

  monkeypatch.setattr(reach, "is_remote", lambda _: True)
  workdir.remove(Folder("gs://b/run/checkpoints/1"))
  assert gone == [workdir.METADATA, "commit_success.txt", "the rest"]
