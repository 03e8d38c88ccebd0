"""The programs that are weighed: jitted functions and their abstract arguments.

`train` and `eval` are the trainer's own (`training/plan.py`): the same sharding tables,
the same donation. Those of an answer are the generator's own, see answers.py. `cache`
is what `miras data cache` runs: the frozen encoders, whole on every device.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from input_pipeline import batch_table
from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.models.miras import batch_sizes, slot_names
from miras_jax.parallel import sharding
from miras_jax.planning.fit import fit
from miras_jax.scale import answers
from miras_jax.training import features, plan, task

PROGRAMS = ("train", "eval", "cache", *answers.PROGRAMS)
IMAGES = 2  # of a device at a time: the default of `miras data cache`, 4 chips a host


class Build(NamedTuple):
  """One program for one mesh: `jitted.lower(*shapes)` is all that is left to do."""

  program: str
  config: Any  # the fitted RunConfig
  mesh: jax.sharding.Mesh
  jitted: Any
  shapes: tuple
  notes: tuple[str, ...] = ()
  features: tuple[str, ...] = ()  # what `cache` makes

  @property
  def conversations(self):
    """In a row, at most."""
    return self.config.data.pack if self.program in ("train", "eval") else 1


def fit_cache(config, num_devices, *, num_slices=1, per_chip=0):
  """`fit` for `cache`: rows are images, cut over all devices whatever the mesh."""
  mesh = MeshConfig(dcn_data=num_slices, data=-1)
  optim = dataclasses.replace(config.optim, accumulation=1)
  config = dataclasses.replace(config, mesh=mesh, optim=optim)
  images = per_chip or IMAGES
  config, _ = fit(config, num_devices, num_slices=num_slices, per_chip=images)
  notes = (
    f"rows are images, {images} a device at a time; each process encodes its own images"
    " with the weights whole on every device",
  )
  return config, notes


def fit_answers(config, num_devices, *, num_slices=1, per_chip=0):
  """`fit` for the programs of an answer: a row is a conversation, one a batch shard
  where `per_chip` does not say more, as long as the config's `data.talk_len`."""
  optim = dataclasses.replace(config.optim, accumulation=1)
  config = dataclasses.replace(config, optim=optim)
  config, _ = fit(config, num_devices, num_slices=num_slices, per_chip=per_chip or 1)
  data = config.data
  masks = max(1, data.max_masks // data.pack)
  data = dataclasses.replace(data, max_len=data.talk_len, pack=1, max_masks=masks)
  notes = [f"conversations of {data.max_len} tokens and an answer of up to"
           f" {answers.NEW_TOKENS}"]  # fmt: skip
  return dataclasses.replace(config, data=data), tuple(notes)


def build(program, config, mesh, *, cached=False, weights="trained"):
  """The Build of a fitted config; `jax.set_mesh(mesh)` must be active.

  cached: the batch carries the encoders' features in place of pixels. weights: of what
  answers, see `inference.prepare`.
  """
  if program not in PROGRAMS:
    raise UserError(f"--program={program}: there are {', '.join(PROGRAMS)}")
  run_task = task.model_task(config)
  if program in ("train", "eval"):
    state, parts = plan.make_plan(run_task, mesh)
    make = {"train": plan.jit_train_step, "eval": plan.jit_eval_step}[program]
    cached_features = batch_table.feature_names() if cached else ()
    batch = batch_shapes(config, mesh, features=cached_features)
    jitted, shapes = make(parts, state), (state, batch)
  elif program == "cache":
    names, jitted, shapes = _cache(run_task, config, mesh)
    return Build(program, config, mesh, jitted, shapes, features=tuple(names))
  else:
    views = batch_shapes(config, mesh)
    jitted, shapes = answers.make(program, run_task, config, mesh, views, weights)
  return Build(program, config, mesh, jitted, shapes)


def batch_shapes(config, mesh, batch_size=None, *, features=()):
  """A training batch as ShapeDtypeStructs, cut along the mesh's batch axes.

  features: what comes from a feature cache, in place of pixels.
  """
  cfg = config.model.build()
  sizes = batch_sizes(
    cfg,
    batch_size=batch_size or config.batch_size,
    length=config.data.max_len,
    max_masks=config.data.max_masks,
  )
  return {
    name: jax.ShapeDtypeStruct(
      batch_table.shape(name, sizes),
      batch_table.TABLE[name].dtype,
      sharding=sharding.batch_sharding(mesh, name),
    )
    for name in batch_table.names([*features, *slot_names(cfg)])
  }


def _cache(run_task, config, mesh):
  """(features, jitted, shapes) of what `data.cache.Encoder` runs."""
  names, flat = features.encoder_shapes(run_task)
  params = _placed(unflatten_dict(flat, sep="/"), sharding.replicated_sharding(mesh))
  batch = batch_shapes(config, mesh)
  batch = {k: batch[k] for k in batch_table.ENCODER_INPUTS}
  encode = functools.partial(features.encode, run_task.objective.model, tuple(names))
  return names, jax.jit(encode), (params, batch)


def _placed(shapes, where):
  return jax.tree.map(lambda x: _with_sharding(x, where), shapes)


def _with_sharding(x, where):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


def state_bytes(shapes):
  """Bytes of the arguments of one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * jnp.dtype(x.dtype).itemsize
    for x in jax.tree.leaves(shapes)
  )
