"""The state a run starts from: the parameters of its seed, or of its `init_from`."""

import contextlib
import functools
import re

import jax
import jax.numpy as jnp

from miras_jax.errors import UserError
from miras_jax.models import trees
from miras_jax.models.miras import init_params
from miras_jax.training import init_from, stages
from miras_jax.training import step as train_step

# What a layer of the language model adds to its input comes out of these.
ADDED = r"^llm/.*(attn/o_proj|mlp/down_proj)/kernel$"


def refuse_random(config) -> None:
  """UserError for a run that would train on frozen random numbers, unless it says so.

  From random weights everything has to train (`trainable=full`): an adapter or a head
  learns nothing from a frozen part that was never trained.
  """
  if config.init_from or config.allow_random:
    return
  shapes = jax.eval_shape(
    functools.partial(init_params, config.model.build()), jax.random.key(0)
  )
  _, frozen = trees.split_by_name(shapes, config.trainable)
  parts = sorted({p.split("/")[0] for p in trees.paths_of(frozen) if not constant(p)})
  if parts:
    raise UserError(
      f"trainable={config.trainable!r} leaves {', '.join(parts)} frozen at random"
      " numbers; name the published weights with --config.init_from=DIR (miras convert"
      " makes it), train everything with --config.trainable=full, or say"
      " --config.allow_random=True"
    )


def constant(path):
  """Whether a parameter is a constant of the published model, random by design."""
  return re.search(trees.NEVER, path) is not None


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
  platform = jax.default_backend()
  options = {"xla_backend_optimization_level": 0} if platform == "cpu" else {}
  with short_threefry() if platform == "gpu" else contextlib.nullcontext():
    lowered = jax.jit(make, out_shardings=placed).lower(*args)
  return lowered.compile(compiler_options=options)(*args)


@contextlib.contextmanager
def short_threefry():
  """On a GPU, random bits by JAX's own kernel: the same numbers in one operation.

  Spelt out, as XLA would fuse them, they are a hundred an array: a state of the 7B was
  compiled for an H200 in 143 s, and so in 28 with a lower peak of memory.
  """
  name = "jax_threefry_gpu_kernel_lowering"
  before = getattr(jax.config, name)
  jax.config.update(name, True)
  try:
    yield
  finally:
    jax.config.update(name, before)


def make_state(task, tx):
  """A fresh TrainState from the seed (traced)."""
  config = task.config
  params = task.init(jax.random.key(config.seed))
  if stages.of(config)[0].name == stages.PARTS:
    params = quiet(params)
  trainable, frozen = split_params(params, config)
  return train_step.create_state(
    trainable, frozen, tx, seed=config.seed, ema=config.optim.ema
  )


def quiet(params):
  """Parameters whose language model leaves every embedding as it is, since no layer
  adds to it yet: then it begins with what the words have learnt on their own."""

  def zeroed(path, x):
    name = "/".join(entry.key for entry in path)
    return jnp.zeros_like(x) if re.search(ADDED, name) else x

  return jax.tree.map_with_path(zeroed, params)


def split_params(params, config) -> tuple[dict, dict]:
  """(trainable, frozen), each in the type in which a run keeps it."""
  trainable, frozen = trees.split_by_name(params, config.trainable)
  cast = functools.partial(_frozen_dtype, jnp.dtype(config.model.dtype))
  return trainable, jax.tree.map_with_path(cast, frozen)


def _frozen_dtype(dtype, path, x):
  """What is frozen is kept in the compute type, except what is small and delicate."""
  return x if path[-1].key in trees.KEEP_FLOAT32 else x.astype(dtype)
