"""`miras train`: its options, what a mistake says, a folder that is not new."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import jax
import pytest

from miras_jax import cli
from miras_jax.checkpoint import workdir
from miras_jax.checkpoint.reading import read_config
from miras_jax.config import run as run_config
from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import command as train
from tests.training.toy_runs import rows_of, run, toy_config, toy_task

pytestmark = pytest.mark.usefixtures("toy_world")


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
    ("--config.mesh.data=3", ("data=3", "this fits", "--config.mesh.data=8")),
    ("--config.batch_size=12", ("batch_size=12", "8 or 16")),
    (SPLASH + "--config.mesh.tensor=8", ("tensor=8", "2 key heads", "tensor=2")),
    (ATTENTION + "cudnn", ("'cudnn'", "GPU", "CPU", "attention=xla")),
    ("--config.data.dir=/nowhere", ("no such", "miras data synth --out=/nowhere")),
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


def test_a_run_of_another_command_is_not_told_of_options_it_has_not(finished, capsys):
  config = toy_config()
  assert train.run(config, workdir.Workdir(finished), nested=True) == 0
  said = capsys.readouterr().out
  assert "already trained to step 6" in said and "--config" not in said


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


@pytest.mark.parametrize("options, status", [([], 0), (["stopped_exit_code=42"], 42)])
def test_a_signal_before_the_first_step_ends_with_the_status_of_a_stop(
  config_path, tmp_path, monkeypatch, options, status
):
  def stop(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(train, "run", stop)
  options = [f"--config.{option}" for option in options]
  workdir_option = f"--workdir={tmp_path / 'run'}"
  assert train.main([f"--config={config_path}", workdir_option, *options]) == status


def test_the_status_of_a_mistake_is_not_for_a_stop(config_path):
  with pytest.raises(
    UserError, match="stopped_exit_code=1 is what a mistake ends with"
  ):
    train.parse(
      [f"--config={config_path}", "--workdir=w", "--config.stopped_exit_code=1"]
    )
