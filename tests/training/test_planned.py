"""`mesh.plan` of a run: said once, kept in its config.json, taken again."""

import jax
import pytest

from miras_jax.checkpoint import workdir
from miras_jax.checkpoint.reading import read_config
from miras_jax.errors import UserError
from miras_jax.planning import choice
from miras_jax.training import command as train
from tests.training.toy_runs import toy_config, toy_task

pytestmark = pytest.mark.usefixtures("toy_world")
ON = {"mesh.plan": "auto", "mesh.data": 1, "mesh.fsdp": -1}


@pytest.fixture
def start(tmp_path, monkeypatch):
  """Trains a toy in one folder; returns the RunConfig that the folder then has."""
  monkeypatch.setattr(train, "make_task", lambda config, *_, **__: toy_task(config))
  place = workdir.Workdir(tmp_path / "w")

  def run(**changes):
    assert train.run(toy_config(allow_random=True, **changes), place) == 0
    return read_config(place)

  return run


def test_the_choice_is_said_once_and_kept_with_the_run(start, capsys):
  saved = start(**ON)
  assert capsys.readouterr().out.count("mesh.plan=auto on 8 x cpu: data=8, ") == 1
  assert saved.mesh.planned == "8 x cpu" and saved.mesh.plan == "auto"
  assert (saved.mesh.data, saved.mesh.fsdp) == (8, 1)


def test_a_run_that_goes_on_takes_the_choice_it_has(start, capsys, monkeypatch):
  first = start(**ON)
  monkeypatch.delattr(choice, "_plain")
  again = start(**ON, steps=9)
  assert again.mesh == first.mesh and again.steps == 9
  assert "as when the run began" in capsys.readouterr().out


def test_on_fewer_devices_it_is_laid_anew_and_says_so(start, capsys, monkeypatch):
  start(**ON)
  devices = jax.devices()[:4]
  monkeypatch.setattr(jax, "devices", lambda *_: devices)
  again = start(**ON, steps=9)
  assert again.mesh.planned == "4 x cpu" and again.mesh.data == 4
  out = capsys.readouterr().out
  assert "was laid over 8 x cpu, here are 4 x cpu: laid anew, its rows stay" in out


def test_sizes_as_written_stay_without_a_plan(start):
  saved = start(**{"mesh.data": 2, "mesh.fsdp": 4})
  assert (saved.mesh.data, saved.mesh.fsdp, saved.mesh.planned) == (2, 4, "")


def test_another_batch_is_another_run_with_a_plan_too(start):
  start(**ON)
  with pytest.raises(UserError, match="batch_size=16"):
    start(**ON, batch_size=32, steps=9)
