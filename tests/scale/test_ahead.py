"""`miras scale --save-executable`: what `miras train --executable` loads."""

import importlib.util
import json

import jax
import pytest

from miras_jax import cli
from miras_jax.checkpoint import executables
from miras_jax.errors import UserError
from miras_jax.models import trees
from miras_jax.scale import ahead
from miras_jax.training import command as train
from tests import prist_files
from tests.training.test_packing_parity import MICRO
from tests.training.toy_runs import toy_task

TOY = """
from configs import common


def get_config(arg=""):
  c = common.base_config()
  c.update(dict(trainable="toy", steps=2, batch_size=16, allow_random=True))
  c.optim.warmup_steps = 1
  return c
"""
REAL = """
from configs import common


def get_config(arg=""):
  c = common.base_config()
  c.model.variant, c.trainable, c.allow_random = "tiny", "full", True
  c.model.overrides = {overrides}
  c.batch_size, c.steps, c.loss.loss_resolution = 8, 1, 16
  c.data.dir, c.data.tokenizer, c.data.vocab_size = {data!r}, "bpe", 400
  return c
"""
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """`--config=` of a run of the toy model, for both commands."""
  monkeypatch.setitem(trees.TRAINABLE, "toy", (r"^llm/",))
  for module in (ahead, train):
    monkeypatch.setattr(module, "make_task", lambda config, *_, **__: toy_task(config))
  path = tmp_path / "toy.py"
  path.write_text(TOY)
  return f"--config={path}"


@pytest.fixture
def real(tmp_path):
  """The same of a very small model, whose data are there."""
  for split in ("train", "val"):
    prist_files.write(tmp_path / "data", [prist_files.record()] * 8, split=split)
  tree = {}
  for path, value in (MICRO | {"llama.depth": 1}).items():
    part, field = path.split(".")
    tree.setdefault(part, {})[field] = value
  path = tmp_path / "micro.py"
  path.write_text(REAL.format(overrides=tree, data=str(tmp_path / "data")))
  return f"--config={path}"


def test_a_run_loads_what_was_compiled_for_it(toy, tmp_path, capsys):
  kept = tmp_path / "kept"
  argv = ["scale", toy, "--topology=local", f"--save-executable={kept}"]
  assert cli.main(argv) == 0
  said = capsys.readouterr().err
  assert "compiled train_step" in said and "compiled probe_step" in said
  argv = ["train", toy, f"--workdir={tmp_path}/run", f"--executable={kept}"]
  assert cli.main(argv) == 0
  said = capsys.readouterr().err
  assert "loaded train_step" in said and "loaded probe_step" in said
  assert "compiled" not in said


class _Enough(Exception):
  """Raised in place of running what is not compiled here."""


def test_the_data_make_the_program_of_both_commands(real, tmp_path, monkeypatch):
  made = []

  def note(self, name, lowered, devices):
    made.append((name, executables.facts(lowered, devices)))
    if len(made) % 2 == 0:
      raise _Enough
    return None, "made"

  monkeypatch.setattr(executables.Kept, "load_or_compile", note)
  to = tmp_path / "kept"
  with pytest.raises(_Enough):
    cli.main(["scale", real, "--topology=local", f"--save-executable={to}"])
  with pytest.raises(_Enough):
    cli.main(["train", real, f"--workdir={tmp_path}/run", f"--executable={to}"])
  assert [name for name, _ in made[:2]] == ["train_step", "probe_step"]
  assert made[:2] == made[2:]


@needs_libtpu
def test_one_for_a_tpu_is_refused_here_in_one_line(toy, tmp_path, capsys):
  kept = tmp_path / "kept"
  argv = ["scale", toy, "--topology=v5e:2x2", f"--save-executable={kept}"]
  assert cli.main([*argv, "--mesh=data=4"]) == 0
  about = json.loads((kept / "train_step.json").read_text())
  assert about["device_kind"] == "TPU v5 lite" and len(about["devices"]) == 4
  assert about["libtpu"] and about["jax"] == jax.__version__
  assert (kept / "train_step.bin").stat().st_size > 10_000
  argv = ["train", toy, f"--workdir={tmp_path}/run", f"--executable={kept}"]
  assert cli.main([*argv, "--config.steps=1"]) == 0
  said = [x for x in capsys.readouterr().err.splitlines() if "is not used: " in x]
  assert len(said) == 2 and f"{kept}/train_step.bin is not used: " in said[0]


def test_it_is_for_one_topology(toy, tmp_path):
  with pytest.raises(UserError, match="one topology, not v5e:2x2, v5e:4x4"):
    cli.main(["scale", toy, "--topology=v5e:2x2,4x4",
              f"--save-executable={tmp_path}/kept"])  # fmt: skip
