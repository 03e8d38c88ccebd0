"""`miras scale --save-executable`: what `miras train --executable` loads."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from miras_jax import cli
from miras_jax.checkpoint import executables
from miras_jax.errors import UserError
from miras_jax.parallel.compiled import Program
from tests import prist_files
from tests.training.test_packing_parity import MICRO

CONFIG = """
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
def config(tmp_path):
  """`--config=` of a run of a very small model, whose data are there."""
  for split in ("train", "val"):
    prist_files.write(tmp_path / "data", [prist_files.record()] * 8, split=split)
  tree = {}
  for path, value in (MICRO | {"llama.depth": 1}).items():
    part, field = path.split(".")
    tree.setdefault(part, {})[field] = value
  path = tmp_path / "micro.py"
  path.write_text(CONFIG.format(overrides=tree, data=str(tmp_path / "data")))
  return f"--config={path}"


def test_a_run_loads_what_was_compiled_for_it(config, tmp_path, capsys):
  kept = tmp_path / "kept"
  assert cli.main(
    ["scale", config, "--topology=local", f"--save-executable={kept}"]
  ) == 0  # fmt: skip
  said = capsys.readouterr().err
  assert "compiled train_step" in said and "compiled probe_step" in said
  argv = ["train", config, f"--workdir={tmp_path}/run", f"--executable={kept}"]
  assert cli.main(argv) == 0
  said = capsys.readouterr().err
  assert "loaded train_step" in said and "loaded probe_step" in said
  assert "compiled" not in said


@needs_libtpu
def test_one_for_a_tpu_is_refused_here_in_one_line(config, tmp_path, capsys):
  kept = tmp_path / "kept"
  argv = ["scale", config, "--topology=v5e:2x2", f"--save-executable={kept}"]
  assert cli.main([*argv, "--effort=O1", "--config.data.split_eval="]) == 0
  about = json.loads((kept / "train_step.json").read_text())
  assert about["device_kind"] == "TPU v5 lite" and len(about["devices"]) == 4
  assert about["libtpu"] and about["jax"] == jax.__version__
  assert (kept / "train_step.bin").stat().st_size > 10_000
  shape = jax.ShapeDtypeStruct((4,), jnp.float32)
  jitted = jax.jit(lambda x: {"y": x["x"]})
  store = executables.Kept(kept)
  devices = jax.devices()[:1]
  capsys.readouterr()
  Program("train_step", jitted, {"x": shape}, kept=store, devices=devices)
  said = [x for x in capsys.readouterr().err.splitlines() if "is not used: " in x]
  assert len(said) == 1 and f"{kept}/train_step.bin is not used: " in said[0]


def test_it_is_for_one_topology(config, tmp_path):
  with pytest.raises(UserError, match="one topology, not v5e:2x2, v5e:4x4"):
    cli.main(["scale", config, "--topology=v5e:2x2,4x4",
              f"--save-executable={tmp_path}/kept"])  # fmt: skip
