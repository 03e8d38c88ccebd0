"""A finished run with more steps: its rate is stretched, held or warmed up again."""

import shutil

import jax
import pytest

from miras_jax.checkpoint import workdir
from miras_jax.checkpoint.reading import read_config
from miras_jax.config.settings import MeshConfig, OptimConfig
from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import command as train
from miras_jax.training import optim
from tests.training.toy_runs import (
  assert_same_parameters,
  rows_of,
  toy_config,
  toy_task,
)
from tests.training.toy_runs import run as run_toy

pytestmark = pytest.mark.usefixtures("toy_world")
PEAK = 3e-4
FIRST = [PEAK / 2, PEAK, PEAK, PEAK * 3 / 4, PEAK / 2, PEAK / 4]  # 2 of warm-up


@pytest.fixture
def extend(tmp_path, monkeypatch):
  """Function that resumes the finished run of 6 steps with other fields."""
  run_toy(tmp_path / "w")
  one = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1])
  monkeypatch.setattr(mesh_lib, "make_mesh", lambda _: one)
  monkeypatch.setattr(train, "make_task", lambda config, *_, **__: toy_task(config))

  def resume(steps, form):
    config = toy_config(steps=steps, **{"optim.extend": form})
    assert train.run(config, workdir.Workdir(tmp_path / "w")) == 0
    return [row["learning_rate"] for row in rows_of(tmp_path / "w")]

  return resume


@pytest.mark.parametrize(
  "form, added",
  [
    ("stretch", [PEAK * left / 10 for left in (6, 5, 4, 3, 2, 1)]),
    ("hold", [PEAK / 4] * 6),
    ("rewarm", [PEAK * x for x in (5 / 8, 1, 1, 3 / 4, 1 / 2, 1 / 4)]),
  ],
)
def test_rates_of_the_added_steps_and_a_stop_among_them(extend, tmp_path, form, added):
  assert extend(12, form) == pytest.approx(FIRST + added, rel=1e-5)
  # Once more from the middle, by the command without the option: nothing differs.
  shutil.copytree(tmp_path / "w", tmp_path / "straight")
  shutil.rmtree(tmp_path / "w/checkpoints/12")
  extend(12, "stretch")
  assert rows_of(tmp_path / "w") == rows_of(tmp_path / "straight")
  assert_same_parameters(tmp_path / "w", tmp_path / "straight")


def test_of_a_run_past_the_steps_asked_for_no_rate_is_told(extend, caplog, capsys):
  extend(12, "hold")
  assert "steps=12 was 6" in caplog.text
  extend(4, "stretch")
  assert "already trained to step 12" in capsys.readouterr().out
  assert "steps=4" not in caplog.text


def test_a_run_may_be_extended_again(extend, tmp_path):
  extend(9, "hold")
  rates = extend(12, "rewarm")
  assert rates[6:9] == pytest.approx([PEAK / 4] * 3, rel=1e-5)
  assert rates[9:] == pytest.approx([PEAK * 5 / 8, PEAK, PEAK], rel=1e-5)
  assert (
    read_config(workdir.Workdir(tmp_path / "w")).optim.extended == "6:hold,9:rewarm"
  )


def test_a_rate_that_fell_to_nothing_is_held_at_a_tenth_of_the_highest():
  cfg = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=0, extended="100:hold")
  assert float(optim.make_schedule(cfg, 200)(150)) == pytest.approx(0.1)


def test_fewer_steps_forget_the_extensions_behind_them():
  saved = OptimConfig(extended="100:hold,200:rewarm")
  assert OptimConfig().with_extension(saved, 300, 150).extended == "100:hold"


@pytest.mark.parametrize(
  "text", ["6", "6:stretch", "0:hold", "9:hold,6:hold", "x:hold"]
)
def test_a_note_that_no_run_wrote_is_refused(text):
  with pytest.raises(UserError, match="optim.extended="):
    OptimConfig(extended=text)
