"""The loop resumes bit-identically, saves on SIGTERM, compiles once."""

import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from miras_jax.checkpoint import executables, workdir
from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.inference.load import load_for_inference
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel.compiled import Program
from miras_jax.training import goodput, loop
from miras_jax.training.meters import TIMINGS
from tests import toy
from tests.training.toy_runs import (
  assert_same_parameters,
  run,
  toy_config,
  toy_task,
)

pytestmark = pytest.mark.usefixtures("toy_world")


def test_each_step_is_one_row_with_the_promised_numbers(tmp_path):
  rows = run(tmp_path)
  assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]
  assert {"loss", "ce", "dice", "learning_rate", "grad_norm", "skipped"} <= set(rows[0])
  assert [r["step"] for r in rows if "probe_loss" in r] == [2, 4, 6]
  raw = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
  assert all(raw[name] >= 0 for name in TIMINGS)


def test_each_start_of_a_run_has_its_account_of_time(tmp_path):
  run(tmp_path, steps=2)
  run(tmp_path, steps=4)
  first, second = goodput.read(tmp_path / goodput.FILE)
  assert (first.step, second.step) == (2, 4)
  assert first.seconds["compile"] > 0 and second.seconds["restore"] > 0


def test_a_run_of_another_command_is_not_billed_for_what_came_before(tmp_path):
  task, place = toy_task(toy_config(steps=2)), workdir.Workdir(tmp_path)
  made = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1])
  now = time.time()
  loop.train(task, place, made, began=time.perf_counter())
  (life,) = goodput.read(tmp_path / goodput.FILE)
  assert life.began >= now - 0.01


def test_a_start_with_kept_programs_compiles_none_and_goes_on_alike(tmp_path, caplog):
  def go(name):
    made, folder = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1]), tmp_path / name
    kept = executables.Kept(tmp_path / "programs")
    task = toy_task(toy_config(), None)
    assert loop.train(task, workdir.Workdir(folder), made, kept=kept) == 0

  caplog.set_level("INFO")
  go("first")
  caplog.clear()
  go("second")
  said = [record.getMessage() for record in caplog.records]
  assert sum("loaded" in line for line in said) == 2
  assert not any("compiled" in line for line in said)
  assert_same_parameters(tmp_path / "first", tmp_path / "second")


def test_the_logged_loss_falls(tmp_path):
  rows = run(tmp_path, steps=60, **{"optim.lr": 0.05, "checkpoint_every": 60})
  first, last = (np.mean([r["loss"] for r in part]) for part in (rows[:10], rows[-10:]))
  assert last < 0.7 * first


@pytest.mark.parametrize("devices, mesh", [(1, {}), (8, {"data": 4, "fsdp": 2})])
def test_stopping_and_resuming_is_bit_identical(tmp_path, devices, mesh):
  mesh = MeshConfig(**mesh)
  straight = run(tmp_path / "a", devices=devices, mesh=mesh)
  stop = toy.ToyData(at=5, call=lambda: os.kill(os.getpid(), signal.SIGTERM))
  part = run(tmp_path / "b", data=stop, devices=devices, mesh=mesh)
  assert 0 < len(part) < 6
  resumed = run(tmp_path / "b", devices=devices, mesh=mesh)
  assert resumed == straight
  assert_same_parameters(tmp_path / "a", tmp_path / "b")


def test_rows_after_the_last_checkpoint_are_made_again(tmp_path):
  straight = run(tmp_path / "a")

  class PowerCut(BaseException):
    pass

  def crash():
    raise PowerCut

  with pytest.raises(PowerCut):
    run(tmp_path / "b", data=toy.ToyData(at=6, call=crash))
  assert workdir.Workdir(tmp_path / "b").steps() == [3]
  with open(tmp_path / "b/metrics.jsonl", "a") as f:
    f.write('{"step": 4, "lo')
  assert run(tmp_path / "b") == straight


def test_sigterm_saves_where_it_stopped(tmp_path, capsys):
  stop = toy.ToyData(at=3, call=lambda: os.kill(os.getpid(), signal.SIGTERM))
  rows = run(tmp_path, data=stop)
  assert workdir.Workdir(tmp_path).steps() == [rows[-1]["step"]]
  assert "stopped by SIGTERM" in capsys.readouterr().out


def test_a_stopped_run_ends_with_the_status_that_its_config_gives_it(tmp_path):
  def status(**more):
    config = toy_config(stopped_exit_code=42)
    made = mesh_lib.make_mesh(config.mesh, jax.devices()[:1])
    task = toy_task(config, toy.ToyData(**more))
    return loop.train(task, workdir.Workdir(tmp_path), made)

  assert status(at=3, call=lambda: os.kill(os.getpid(), signal.SIGTERM)) == 42
  assert status() == 0  # the same command again, to the last step
  assert status() == 0  # and again: there is nothing left to do


def test_sigterm_in_a_restore_stops_before_another_step(tmp_path, monkeypatch, capsys):
  before = run(tmp_path, steps=3)
  make_plan = loop.make_plan

  def interrupted(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return make_plan(*args)

  # Not the end of this process when the trainer does not listen yet: a failure.
  monkeypatch.setattr(loop, "make_plan", interrupted)
  ours = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody listened"))
  try:
    assert run(tmp_path, steps=6) == before
  finally:
    signal.signal(signal.SIGTERM, ours)
  assert "step 3 of 6, stopped by SIGTERM" in capsys.readouterr().out


def test_eight_devices_log_the_losses_of_one(tmp_path):
  one = run(tmp_path / "one")
  mesh = MeshConfig(data=2, fsdp=4)
  many = run(tmp_path / "many", devices=8, mesh=mesh)
  for a, b in zip(one, many, strict=True):
    np.testing.assert_allclose(b["loss"], a["loss"], rtol=1e-5)


def test_data_that_fail_once_are_read_again_from_the_same_place(tmp_path, caplog):
  straight = run(tmp_path / "a")
  data = toy.ToyData()

  def fail():
    data.at, data.position = None, data.position - 1
    raise OSError("server away")

  data.at, data.call = 4, fail
  assert run(tmp_path / "b", data=data) == straight
  assert "server away" in caplog.text


def test_data_that_keep_failing_are_one_line(tmp_path):
  class Broken(toy.ToyData):
    def __next__(self):
      raise OSError("server gone")

  with pytest.raises(UserError, match="failed 3 times: OSError: server gone"):
    run(tmp_path, data=Broken())


def test_a_full_disk_is_an_alarm_and_training_goes_on(tmp_path, monkeypatch, caplog):
  free = iter([10**12, 0, 10**12, 10**12])  # frozen, step 2, 4, 6
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(
    shutil, "disk_usage", lambda _: usage._replace(free=next(free, 10**12))
  )
  rows = run(tmp_path, checkpoint_every=2)
  assert len(rows) == 6 and workdir.Workdir(tmp_path).steps() == [4, 6]
  assert "ALARM disk full: checkpoint 2" in caplog.text


def test_a_disk_that_is_full_at_the_end_is_one_line(tmp_path, monkeypatch):
  free = iter([10**12, 10**12, 0, 0])
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
  with pytest.raises(UserError, match="disk full: checkpoint 6"):
    run(tmp_path)
  assert workdir.Workdir(tmp_path).steps() == [3]


def test_a_profile_is_written_for_the_steps_asked_for(tmp_path):
  made = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1])
  task = toy_task(toy_config(probe_every=99))
  loop.train(task, workdir.Workdir(tmp_path), made, profile=(3, 2))
  assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_frozen_parameters_come_out_as_they_went_in(tmp_path):
  run(tmp_path)
  _, params, _, step = load_for_inference(tmp_path)
  assert step == 6
  np.testing.assert_array_equal(
    params["clip"]["kernel"], toy.params()["clip"]["kernel"]
  )
  assert not np.array_equal(params["llm"]["kernel"], toy.params()["llm"]["kernel"])


def test_a_bfloat16_run_freezes_in_bfloat16_and_trains_in_float32(tmp_path):
  run(tmp_path, **{"model.dtype": "bfloat16"})
  params = load_for_inference(tmp_path)[1]
  assert str(params["clip"]["kernel"].dtype) == "bfloat16"
  assert str(params["llm"]["kernel"].dtype) == "float32"


def test_a_skipped_step_is_logged_with_its_records(tmp_path, caplog):
  rows = run(tmp_path, data=toy.ToyData(bad_steps=(2,)))
  assert [r["skipped"] for r in rows] == [0, 1, 0, 0, 0, 0]
  assert rows[1]["loss"] is None and np.isfinite(rows[5]["loss"])
  assert "step 2 skipped" in caplog.text and "records [0, 1, 2" in caplog.text


def test_a_checkpoint_due_at_a_skipped_step_leaves_the_one_before(tmp_path):
  def killed():
    raise KeyboardInterrupt

  data = toy.ToyData(bad_steps=(6, 7), at=8, call=killed)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, data=data, steps=12, keep=1)
  assert workdir.Workdir(tmp_path).steps() == [3]


def test_many_skipped_steps_in_a_row_end_the_run(tmp_path):
  with pytest.raises(UserError, match="10 steps in a row"):
    run(tmp_path, data=toy.ToyData(bad_steps=range(2, 40)), steps=40)


def test_each_program_is_compiled_once_and_the_log_says_so(tmp_path, caplog):
  caplog.set_level("INFO", logger="miras_jax")
  run(tmp_path)
  compiled = [r.message.split()[1] for r in caplog.records if "compiled" in r.message]
  assert compiled == ["train_step", "probe_step"]


def test_a_run_that_is_stopped_before_its_first_step_compiles_no_second_program(
  tmp_path, caplog
):
  caplog.set_level("INFO", logger="miras_jax")
  stop = toy.ToyData(at=1, call=lambda: os.kill(os.getpid(), signal.SIGTERM))
  assert run(tmp_path, data=stop) == []
  compiled = [r.message.split()[1] for r in caplog.records if "compiled" in r.message]
  assert compiled == ["train_step"]
  assert len(run(tmp_path)) == 6  # the same command again


def test_a_changed_batch_shape_during_training_is_an_error(tmp_path):
  data = toy.ToyData()

  def shrink():
    data.size = 8

  data.at, data.call = 3, shrink
  with pytest.raises(ValueError, match=r"train_step was compiled once.*\(8,"):
    run(tmp_path, data=data)


def test_a_program_names_what_changed():
  shape = jax.ShapeDtypeStruct((4,), np.float32)
  program = Program("double", jax.jit(lambda x: 2 * x), shape)
  np.testing.assert_array_equal(program(np.ones(4, np.float32)), 2)
  with pytest.raises(ValueError, match=r"double .*\(5,\)"):
    program(np.ones(5, np.float32))
