"""The state a run starts from: the parameters of its seed, or of its `init_from`."""

import functools

import jax
import jax.numpy as jnp

from miras_jax.models import trees
from miras_jax.training import init_from
from miras_jax.training import step as train_step

# Frozen leaves that keep float32 in a bfloat16 run: they are small and the rounding is
# not (SAM's Fourier matrix is multiplied by 2 pi, norms scale every activation).
KEEP_FLOAT32 = ("scale", "bias", "gamma", "gaussian")


def load(task, shapes, tx) -> train_step.TrainState:
  """A TrainState at step 0 on its devices.

  shapes: TrainState of ShapeDtypeStruct with shardings.
  """
  if task.config.init_from:
    return init_from.load_state(task, shapes, tx)
  return _seeded(task, shapes, tx)


def _seeded(task, shapes, tx):
  """A fresh TrainState on its devices."""
  placed = jax.tree.map(lambda x: x.sharding, shapes)
  return run_once(functools.partial(make_state, task, tx), placed)


def run_once(make, placed, *args):
  """`make(*args)` laid out as `placed` says, compiled with little effort."""
  # Runs once: optimising hundreds of random generators costs more than it gives.
  on_cpu = jax.default_backend() == "cpu"
  options = {"xla_backend_optimization_level": 0} if on_cpu else {}
  lowered = jax.jit(make, out_shardings=placed).lower(*args)
  return lowered.compile(compiler_options=options)(*args)


def make_state(task, tx):
  """A fresh TrainState from the seed (traced)."""
  config = task.config
  params = task.init(jax.random.key(config.seed))
  trainable, frozen = split_params(params, config)
  return train_step.create_state(
    trainable, frozen, tx, seed=config.seed, ema=config.optim.ema
  )


def split_params(params, config) -> tuple[dict, dict]:
  """(trainable, frozen), each in the type in which a run keeps it."""
  trainable, frozen = trees.split_by_name(params, config.trainable)
  cast = functools.partial(_frozen_dtype, jnp.dtype(config.model.dtype))
  return trainable, jax.tree.map_with_path(cast, frozen)


def _frozen_dtype(dtype, path, x):
  """What is frozen is kept in the compute type, except what is small and delicate."""
  return x if path[-1].key in KEEP_FLOAT32 else x.astype(dtype)
