"""XLA's real TPU compiler on a tiny step, and the guard of the 7B one."""

import importlib.util

import pytest

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.config.settings import MeshConfig
from miras_jax.config.variants import VARIANTS
from miras_jax.scale import command, guard

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@needs_libtpu
def test_a_tiny_step_compiles_for_a_tpu_and_is_weighed():
  c = config_file.load("miras_7b_stage2:size=tiny")
  c.mesh.update(data=1, fsdp=-1)
  c.optim.accumulation = 2
  c.model.overrides = {"sam_decoder": {"depth": 1}}  # half of what is to compile
  entry = command.compile_one(
    RunConfig.from_config_dict(c), "v5e:2x2", per_chip=1, cached=True, effort="O1"
  )
  assert entry["fits"] and entry["devices"] == 4
  assert entry["argument_bytes"] < entry["hbm_bytes"] < 2**30
  assert entry["flops"] == pytest.approx(entry["flops_analytic"], rel=0.25)
  kinds = {(x["kind"], x["axis"]) for x in entry["collectives"]}
  assert ("all-gather", "fsdp") in kinds
  assert VARIANTS["tiny"].llama.depth == 2 and entry["step_time_bound_s"] > 0


@needs_libtpu
def test_the_cache_program_sends_nothing_between_devices():
  config = RunConfig.from_config_dict(config_file.load("miras_7b_stage2:size=tiny"))
  entry = command.compile_one(config, "v5e:2x2", "cache", per_chip=1, effort="O1")
  assert entry["fits"] and entry["batch_size"] == 4
  assert entry["collectives"] == []
  assert entry["flops"] == pytest.approx(entry["flops_analytic"], rel=0.25)


@needs_libtpu
def test_the_programs_of_an_answer_are_weighed_with_the_weights_that_answer():
  config = RunConfig.from_config_dict(config_file.load("miras_7b_stage2:size=tiny"))
  found = {
    (program, weights): command.compile_one(
      config, "v5e:2x2", program, effort="O1", weights=weights, mesh=MeshConfig(data=4)
    )
    for program, weights in (
      ("prefill", "trained"), ("decode", "trained"), ("decode", "int8")
    )
  }  # fmt: skip
  for entry in found.values():
    assert entry["fits"] and entry["batch_size"] == 4
    # Whether any row still speaks is all that the devices tell each other.
    assert sum(x["bytes"] for x in entry["collectives"]) < 100
  prefill = found["prefill", "trained"]
  # Plain attention computes the pairs beyond the diagonal too.
  assert 1 < prefill["flops"] / prefill["flops_analytic"] < 1.1
  whole, small = (found["decode", x]["argument_bytes"] for x in ("trained", "int8"))
  llama = config.model.build().llama
  layers = llama.depth * llama.width * (4 * llama.width + 3 * llama.mlp_width)
  assert whole - small > 2.9 * layers  # bytes: float32 to int8, but for the scales


@needs_libtpu
@pytest.mark.slow
def test_the_7b_step_is_as_lean_as_the_baseline():
  assert guard.main() == 0
