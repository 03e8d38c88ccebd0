"""Compiled programs that a later start loads: only those of the same program, and one's
own."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.checkpoint import executables
from miras_jax.errors import UserError
from miras_jax.parallel.compiled import Program

SHAPE = jax.ShapeDtypeStruct((4,), jnp.float32)


def double(x):
  return {"y": 2 * x}


def program(folder, function=double, shape=SHAPE):
  kept = executables.Kept(folder)
  batch = {"x": shape}
  jitted = jax.jit(lambda batch: function(batch["x"]))
  return Program("step", jitted, batch, kept=kept, devices=jax.devices()[:1])


@pytest.fixture
def told(caplog):
  caplog.set_level("INFO")

  def said():
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return " | ".join(lines)

  return said


def test_a_second_start_loads_what_the_first_compiled(tmp_path, told):
  program(tmp_path / "kept")
  assert "compiled step" in told()
  found = program(tmp_path / "kept")
  assert "loaded step" in told()
  out = found({"x": jnp.arange(4.0)})
  np.testing.assert_array_equal(out["y"], [0, 2, 4, 6])


def test_another_program_is_compiled_and_takes_its_place(tmp_path, told):
  program(tmp_path)
  program(tmp_path, lambda x: {"y": 3 * x})
  said = told()
  assert "is not used: program is" in said and said.count("compiled step") == 2
  program(tmp_path, lambda x: {"y": 3 * x})
  assert "loaded step" in told()


@pytest.mark.parametrize("key", ["jaxlib", "XLA_FLAGS", "device_kind", "devices"])
def test_what_it_depends_on_has_to_be_the_same(tmp_path, told, key):
  program(tmp_path)
  about = tmp_path / "step.json"
  about.write_text(json.dumps(json.loads(about.read_text()) | {key: "other"}))
  program(tmp_path)
  assert f"is not used: {key} is" in told()


def test_a_damaged_one_is_not_loaded(tmp_path, told):
  program(tmp_path)
  blob = tmp_path / "step.bin"
  blob.write_bytes(blob.read_bytes()[:-1])
  program(tmp_path)
  assert "it is damaged" in told()


def test_one_that_others_can_write_to_is_not_loaded(tmp_path, told):
  program(tmp_path)
  (tmp_path / "step.bin").chmod(0o666)
  program(tmp_path)
  assert "is not this user's alone, and it can run code" in told()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="--executable="):
    executables.Kept(tmp_path / "file" / "kept")
