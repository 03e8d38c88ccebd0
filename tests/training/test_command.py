"""The loop resumes bit-identically, saves on SIGTERM, compiles once, checks input."""

import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from miras_jax import cli
from miras_jax.checkpoint import workdir
from miras_jax.checkpoint.reading import read_config
from miras_jax.config import run as run_config
from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.inference.load import load_for_inference
from miras_jax.models import trees
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel.compiled import Program
from miras_jax.training import command as train
from miras_jax.training import loop
from miras_jax.training.meters import TIMINGS
from miras_jax.training.metrics_log import MetricsLog
from miras_jax.training.task import Task
from tests import toy

RULES = ((r"kernel$", jax.sharding.PartitionSpec("fsdp", "tensor")),)


@pytest.fixture(autouse=True)
def toy_world(monkeypatch):
  monkeypatch.setitem(trees.TRAINABLE, "toy", (r"^llm/",))
  # `miras train` takes these over; caplog of this and other tests needs them back.
  for name in ("miras_jax", "input_pipeline"):
    monkeypatch.setattr(logging.getLogger(name), "propagate", True)


def toy_config(**changes):
  c = common.base_config()
  c.update(
    dict(trainable="toy", steps=6, checkpoint_every=3, probe_every=2, batch_size=16)
  )
  c.optim.warmup_steps = 2
  c.update_from_flattened_dict(changes)
  return run_config.RunConfig.from_config_dict(c)


def toy_task(config, data=None):
  start = jax.device_get(toy.params())
  return Task(
    config=config,
    init=lambda key: jax.tree.map(jnp.asarray, start),
    objective=toy.ToyObjective(noise=0.1),
    batches=data or toy.ToyData(),
    probe=next(toy.ToyData()),
    rules=RULES,
  )


def run(folder, data=None, devices=1, mesh=None, **changes):
  config = toy_config(**changes)
  made = mesh_lib.make_mesh(mesh or MeshConfig(), jax.devices()[:devices])
  assert loop.train(toy_task(config, data), workdir.Workdir(folder), made) == 0
  return rows_of(folder)


def rows_of(folder):
  lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return [{k: v for k, v in r.items() if k not in TIMINGS} for r in rows]


def assert_same_parameters(a, b):
  left, right = (load_for_inference(folder)[1] for folder in (a, b))
  for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
    np.testing.assert_array_equal(x, y)


def test_each_step_is_one_row_with_the_promised_numbers(tmp_path):
  rows = run(tmp_path)
  assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]
  assert {"loss", "ce", "dice", "learning_rate", "grad_norm", "skipped"} <= set(rows[0])
  assert [r["step"] for r in rows if "probe_loss" in r] == [2, 4, 6]
  raw = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
  assert all(raw[name] >= 0 for name in TIMINGS)


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


CONFIG = """
from configs import common


def get_config(arg=""):
  options = common.parse(arg, size="tiny")
  c = common.base_config()
  c.model.variant = options["size"]
  c.allow_random = True
  return c
"""


@pytest.fixture
def config_path(tmp_path):
  path = tmp_path / "my_config.py"
  path.write_text(textwrap.dedent(CONFIG))
  return path


def failure(config_path, *options):
  argv = ["train", f"--config={config_path}", f"--workdir={config_path.parent}/w"]
  with pytest.raises(UserError) as error:
    cli.main([*argv, *options])
  return str(error.value)


def test_options_of_the_command_line_reach_the_run(config_path):
  config, folder, _ = train.parse(
    [f"--config={config_path}:size=small", "--workdir", "w", "--config.optim.lr=1e-4",
     "--config.model.overrides.llama.lora_rank=4", "--config.loss.dice", "0.25"]
  )  # fmt: skip
  assert config.model.variant == "small" and config.optim.lr == 1e-4
  assert config.model.build().llama.lora_rank == 4 and config.loss.dice == 0.25
  assert folder.path == pathlib.Path("w")


ATTENTION = "--config.model.overrides.llama.attention="
SPLASH = f"{ATTENTION}splash "


@pytest.mark.parametrize(
  "option, words",
  [
    ("--config.optim.lrr=1", ("optim.lrr", "--config.optim.lr?")),
    ("--config.stesp=1", ("stesp", "--config.steps?")),
    ("--config.steps=many", ("steps=many", "int")),
    ("--config.model.variant=huge", ("'huge'", "tiny")),
    ("--config.model.overrides.llama.dept=2", ("llama.dept",)),
    ("--config.optim.schedule=up", ("'up'", "cosine")),
    ("--config.loss.preset=best", ("'best'", "paper")),
    ("--wrkdir=x", ("--wrkdir", "--workdir")),
    ("--config.mesh.data=3", ("data=3", "this fits")),
    ("--config.batch_size=12", ("batch_size=12", "8 or 16")),
    (SPLASH + "--config.mesh.tensor=8", ("tensor=8", "2 key heads", "tensor=2")),
    (ATTENTION + "cudnn", ("'cudnn'", "GPU", "CPU", "attention=xla")),
    ("--config.data.dir=/nowhere", ("/nowhere", "no such")),
    ("--config.steps=0", ("steps=0",)),
    ("--config.probe_every=0", ("probe_every=0", "at least 1")),
    ("--config.data.pack=0", ("data.pack=0", "at least 1")),
    ("--config.data.threads=-1", ("data.threads=-1", "at least 0")),
    ("--config.data.limit=-1", ("data.limit=-1", "at least 0")),
    ("--config.seed=-1", ("seed=-1", "at least 0")),
    ("--config.loss.dice=nan", ("dice=nan", "finite")),
    ("--config.optim.warmup_steps=-1", ("optim.warmup_steps=-1", "at least 0")),
    ("--config.model.overrides.llama=3", ("llama=3", "fields width")),
    ("--config.model.overrides.llama.depth=abc", ("llama.depth='abc'", "int")),
    ("--config.model.overrides.llama.depth=0", ("depth=0", "at least 1")),
    ("--config.model.overrides.llama.lora_rank=-1", ("lora_rank=-1", "at least 0")),
    ("--config.nope=3", ("--config.nope", "miras train --help")),
  ],
)
def test_a_mistake_is_one_line_that_names_it(config_path, option, words):
  message = failure(config_path, *option.split())
  assert all(word in message for word in words), message
  assert "\n" not in message
  assert not (config_path.parent / "w/checkpoints").exists()


def test_an_empty_data_folder_is_one_line(config_path, tmp_path):
  (tmp_path / "empty").mkdir()
  assert "empty" in failure(config_path, f"--config.data.dir={tmp_path}/empty")


def test_no_data_folder_says_how_to_get_one(config_path):
  assert "miras data synth" in failure(config_path)


def test_an_unknown_config_option_names_the_nearest(config_path):
  with pytest.raises(UserError, match="'siz'.*'size'"):
    train.parse([f"--config={config_path}:siz=tiny", "--workdir=w"])


def test_a_missing_config_names_those_of_the_package():
  with pytest.raises(UserError, match="no config 'nothing.py'"):
    train.parse(["--config=nothing.py", "--workdir=w"])


def test_configs_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  from miras_jax.config import file as config_file

  for name in ("common", "common.py", "configs/common.py"):
    assert config_file.find(name).name == "common.py"


@pytest.fixture
def finished(tmp_path):
  run(tmp_path / "w")
  return tmp_path / "w"


def test_a_finished_run_says_so_and_does_nothing(finished, config_path, capsys):
  before = (finished / "metrics.jsonl").stat().st_mtime_ns
  path = write_config(config_path, "toy")
  assert cli.main(["train", f"--config={path}", f"--workdir={finished}"]) == 0
  assert "already trained to step 6" in capsys.readouterr().out
  assert (finished / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_finished_run_whose_last_step_is_damaged_makes_it_again(
  tmp_path, monkeypatch, caplog
):
  folder = tmp_path / "w"
  rows = run(folder)
  place = workdir.Workdir(folder)
  meta = place.step(6) / "meta/metadata"
  meta.write_text(meta.read_text().replace('"step"', '"stop"'))
  one = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1])
  monkeypatch.setattr(mesh_lib, "make_mesh", lambda _: one)
  monkeypatch.setattr(train, "make_task", lambda config, *_, **__: toy_task(config))
  # The step of a run that has done them all is read before it is called finished.
  assert train.run(read_config(place), place) == 0
  assert "checkpoint step 6 is damaged" in caplog.text
  assert rows_of(folder) == rows


@pytest.mark.parametrize("place", ["w", "w/under"])
def test_a_workdir_that_cannot_be_is_one_line(config_path, tmp_path, place):
  (tmp_path / "w").write_text("a file")
  config, _, _ = train.parse([f"--config={config_path}", "--workdir=w"])
  with pytest.raises(UserError, match="--workdir=.* cannot be made .*take another one"):
    train.run(config, workdir.Workdir(tmp_path / place))


@pytest.mark.parametrize(
  "option, word",
  [("--config.model.variant=small", "model.variant='tiny'"),
   ("--config.optim.lr=0.5", "optim.lr=0.0003"),
   ("--config.model.overrides.clip.depth=5", "leave --config.model.overrides.clip"),
   ("--config.seed=4", "seed=0")],
)  # fmt: skip
def test_another_config_in_the_same_folder_is_one_line(
  finished, config_path, option, word
):
  path = write_config(config_path, "toy")
  with pytest.raises(UserError, match="was trained with") as error:
    cli.main(["train", f"--config={path}", f"--workdir={finished}", option])
  assert word in str(error.value) and "--workdir" in str(error.value)


def test_a_longer_run_may_follow(finished):
  saved = run_config.RunConfig.from_json((finished / "config.json").read_text())
  longer = toy_config(steps=12, log_every=7, **{"mesh.data": 4})
  assert run_config.first_difference(saved, longer) is None


def write_config(path, preset):
  """The config of `toy_config` as a file."""
  path.write_text(
    "from configs import common\n\n\ndef get_config(arg=''):\n"
    "  c = common.base_config()\n"
    f"  c.update(dict(trainable='{preset}', steps=6, checkpoint_every=3,"
    " probe_every=2, batch_size=16))\n"
    "  c.optim.warmup_steps = 2\n  return c\n"
  )
  return path


def test_help_teaches_by_example(capsys):
  with pytest.raises(SystemExit) as ended:
    cli.main(["train", "--help"])
  assert not ended.value.code
  text = capsys.readouterr().out
  assert "miras train --config=" in text
  assert re.search(r"--config.data.pack=1 +most conversations about one image", text)


def test_the_module_runs_as_a_program_and_a_mistake_has_no_traceback(config_path):
  command = [sys.executable, "-m", "miras_jax.training", f"--config={config_path}"]
  done = subprocess.run(
    command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[2]
  )
  assert done.returncode == 1
  line = "error: miras train: --workdir=... is missing (see miras train --help)\n"
  assert done.stderr == line


def test_numbers_that_are_not_finite_are_null_in_valid_json(tmp_path):
  folder = workdir.Workdir(tmp_path)
  with MetricsLog(folder, start_step=0, total=1, tensorboard_every=10) as written:
    written.write(1, {"loss": float("nan"), "examples_per_s": 1.0})
  text = folder.metrics.read_text()
  assert json.loads(text, parse_constant=None) == {
    "step": 1, "loss": None, "examples_per_s": 1.0
  }  # fmt: skip
