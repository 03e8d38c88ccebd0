"""The real model: micro-batches added up on each part of a mesh, as on one device."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest

from miras_jax.benchmarks.step import full_batch
from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.config.settings import MeshConfig
from miras_jax.models import trees
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.training import step as train_step
from miras_jax.training import task

SMALL = {
  "clip.depth": 2, "sam_encoder.depth": 1, "sam_encoder.global_layers": (),
  "sam_decoder.depth": 1, "llama.lora_rank": 2, "llama.lora_dropout": 0.2,
  "llama.remat": "full", "llama.vocab_size": 256,
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
  """(objective, random parameters, batch): adapters act, half the rows are maskless."""
  c = config_file.load("miras_7b_stage2:size=tiny")
  run = RunConfig.from_config_dict(c)
  model = dataclasses.replace(run.model, overrides=SMALL)
  data = dataclasses.replace(run.data, max_len=48, max_masks=2)
  run = dataclasses.replace(run, model=model, data=data, batch_size=8)
  found = task.model_task(run)
  objective = dataclasses.replace(found.objective, skip_maskless=True)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(found.init, jax.random.key(0))
  params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, "f4"), shapes)
  batch = full_batch(run.model.build(), run)
  batch["seg_valid"][::2] = 0
  return objective, trees.split_by_name(params, run.trainable), batch


def step_on(made, sizes, kept):
  """(metrics, what trains) after one update on a mesh, from two micro-batches."""
  objective, (trainable, frozen), batch = made
  count = int(np.prod(list(sizes.values())))
  mesh = mesh_lib.make_mesh(MeshConfig(**{"data": 1} | sizes), jax.devices()[:count])
  tx = optax.sgd(0.1)
  parts = train_step.Parts(objective, tx, accumulation=2, keep_gathered=kept)
  with jax.set_mesh(mesh):
    state = train_step.create_state(trainable, frozen, tx, seed=0)
    places = sharding.state_shardings(jax.eval_shape(lambda: state), mesh)
    batch = jax.device_put(batch, sharding.batch_shardings(mesh, batch))
    step = jax.jit(functools.partial(train_step.train_step, parts=parts))
    new, metrics = step(jax.device_put(state, places), batch)
  return jax.device_get(metrics), jax.device_get(new.trainable)


@pytest.fixture(scope="module")
def one(made):
  return step_on(made, {"data": 1}, kept=False)


@pytest.mark.parametrize(
  "sizes, kept",
  [({"data": 4}, False), ({"data": 2, "fsdp": 2}, False),
   ({"fsdp": 2, "tensor": 2}, True)],
)  # fmt: skip
def test_losses_and_update_are_those_of_one_device(made, one, sizes, kept):
  metrics, trainable = step_on(made, sizes, kept)
  for name, value in metrics.items():
    np.testing.assert_allclose(value, one[0][name], rtol=2e-5, err_msg=name)
  moved = jax.tree.map(lambda a, b: a - b, one[1], made[1][0])
  scale = max(np.abs(x).max() for x in jax.tree.leaves(moved))
  for ours, other in zip(*map(jax.tree.leaves, (trainable, one[1])), strict=True):
    np.testing.assert_allclose(ours, other, atol=1e-4 * scale)
