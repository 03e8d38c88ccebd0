"""The numbers of a run on other boards than TensorBoard."""

import sys
import types

import pytest

from miras_jax.checkpoint.workdir import Workdir
from miras_jax.config import boards as names
from miras_jax.errors import UserError
from miras_jax.training import command
from miras_jax.training.boards import Boards


class Wandb(types.ModuleType):
  """Stands for the library: remembers what it was told."""

  def __init__(self, broken=False):
    super().__init__("wandb")
    self.runs, self.logged, self.broken, self.finished = [], [], broken, False

  def init(self, **options):
    self.runs.append(options)
    return self

  def log(self, numbers, step):
    if self.broken:
      raise ConnectionError("no network")
    self.logged.append((step, numbers))

  def finish(self):
    self.finished = True


@pytest.fixture
def wandb(monkeypatch):
  found = Wandb()
  monkeypatch.setitem(sys.modules, "wandb", found)
  return found


def show(folder, text, *rows):
  board = Boards(Workdir(folder), 0, text, {"steps": 3})
  for step, numbers in rows:
    board.add(step, numbers)
  board.close()


def test_numbers_reach_wandb_in_one_run_for_one_folder(tmp_path, wandb):
  show(tmp_path, "wandb:mine", (1, {"loss": 2.0}))
  show(tmp_path, "wandb:mine", (2, {"loss": 1.0}))
  assert wandb.logged == [(1, {"loss": 2.0}), (2, {"loss": 1.0})] and wandb.finished
  first, second = wandb.runs
  assert first["id"] == second["id"] and first["resume"] == "allow"
  assert (first["project"], first["config"]) == ("mine", {"steps": 3})


def test_a_board_that_fails_is_said_once_and_training_goes_on(tmp_path, wandb, caplog):
  wandb.broken = True
  show(tmp_path, "wandb:mine", (1, {"loss": 2.0}), (2, {"loss": 1.0}))
  alarms = [r.getMessage() for r in caplog.records if "ALARM" in r.getMessage()]
  assert alarms == ["ALARM Wandb: no network; training goes on without it"]


def test_the_newest_numbers_are_there_for_prometheus(tmp_path):
  show(tmp_path, "prometheus", (1, {"loss": 2.0}), (2, {"goodput/step": 0.5}))
  lines = (tmp_path / "metrics.prom").read_text().splitlines()
  assert lines == [
    "# TYPE miras_step gauge",
    f'miras_step{{run="{tmp_path.name}"}} 2',
    "# TYPE miras_goodput_step gauge",
    f'miras_goodput_step{{run="{tmp_path.name}"}} 0.5',
  ]


def test_a_board_that_cannot_be_opened_is_one_line(tmp_path, wandb, monkeypatch):
  def refuse(**options):
    raise RuntimeError("no API key")

  monkeypatch.setattr(wandb, "init", refuse)
  with pytest.raises(UserError, match="wandb:mine cannot be opened: no API key"):
    show(tmp_path, "wandb:mine")


def test_a_library_that_is_not_there_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "mlflow", None)
  with pytest.raises(UserError, match="pip install mlflow"):
    show(tmp_path, "mlflow:mine")


@pytest.mark.parametrize(
  "text, message",
  [
    ("neptune:x", "no board 'neptune'; there are wandb, mlflow, prometheus"),
    ("wandb", "want wandb:NAME"),
    ("prometheus:x", "want prometheus"),
  ],
)
def test_a_board_that_is_none_is_one_line(text, message):
  with pytest.raises(UserError, match=message):
    names.parse(text)


def test_a_missing_library_is_said_before_the_run_has_a_folder(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "wandb", None)
  place = tmp_path / "run"
  with pytest.raises(UserError, match="pip install wandb"):
    command.main(
      ["--config=configs/prist_quickstart.py:size=tiny", f"--workdir={place}",
       "--config.data.dir=/d", "--config.boards=wandb:p"]
    )  # fmt: skip
  assert not place.exists()
