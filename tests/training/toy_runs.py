"""Runs of the toy model through the real loop, and what they wrote."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from miras_jax.checkpoint import workdir
from miras_jax.config import run as run_config
from miras_jax.config.settings import MeshConfig
from miras_jax.inference.load import load_for_inference
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import loop
from miras_jax.training.meters import TIMINGS
from miras_jax.training.task import Task
from tests import toy

RULES = ((r"kernel$", jax.sharding.PartitionSpec("fsdp", "tensor")),)


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
