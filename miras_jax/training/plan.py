"""What is known of a run before any value: its state's shapes and its jitted steps."""

import functools

import jax

from miras_jax import logs
from miras_jax.models import trees
from miras_jax.parallel import gathered, sharding
from miras_jax.parallel.compiled import Program
from miras_jax.training import initial_state, optim
from miras_jax.training import step as train_step


def make_plan(task, mesh) -> tuple[train_step.TrainState, train_step.Parts]:
  """(TrainState of shapes with shardings, Parts): what is known before any value."""
  config = task.config
  schedule = optim.make_schedule(config.optim, config.steps)
  parts = train_step.Parts(
    objective=task.objective,
    tx=optim.make_optimizer(config.optim, config.steps),
    schedule=schedule,
    accumulation=config.optim.accumulation,
    ema=config.optim.ema,
  )
  shapes = jax.eval_shape(functools.partial(initial_state.make_state, task, parts.tx))
  placed = sharding.state_shardings(shapes, mesh, task.rules)
  logs.log.info("%s", trees.summary(shapes.trainable, shapes.frozen))
  whole = sharding.replicated(shapes.trainable, mesh, task.rules)
  whole += sharding.replicated(shapes.frozen, mesh, task.rules)
  if whole:
    logs.log.info(
      "%d parameters keep an axis whole that the mesh does not divide, e.g. %s",
      len(whole), whole[0],
    )  # fmt: skip
  shapes = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
  )
  keep = gathered.decide(config.mesh.keep_gathered, shapes, mesh, parts.accumulation)
  if keep:
    logs.log.info("what fsdp cuts is gathered once a step: mesh.keep_gathered")
  return shapes, parts._replace(keep_gathered=keep)


def jit_train_step(parts, state_shapes):
  """The jitted step of a TrainState with these shapes and shardings, which it donates.

  What `miras train` runs and `miras scale` weighs.
  """
  shardings = jax.tree.map(lambda x: x.sharding, state_shapes)
  return jax.jit(
    functools.partial(train_step.train_step, parts=parts),
    out_shardings=(shardings, sharding.replicated_sharding(shardings.step.mesh)),
    donate_argnums=0,
  )


def compile_steps(
  parts, mesh, state, batch, probe=None, *, kept=None, suffix="", ends=lambda: False
):
  """(train Program, probe Program or None) of trees of ShapeDtypeStruct.

  suffix: of their names, where a run has several. ends: asked between the two; a run
  that ends before its first step waits for no second program.

  What `miras train` runs, and what `miras scale --save-executable` compiles for it.
  """
  ahead = {"kept": kept, "devices": list(mesh.devices.flat)}
  step = jit_train_step(parts, state)
  train = Program(f"train_step{suffix}", step, state, batch, **ahead)
  if probe is None or ends():
    return train, None
  return train, Program(
    f"probe_step{suffix}", jit_eval_step(parts, state), state, probe, **ahead
  )


def jit_eval_step(parts, state_shapes):
  """The jitted `train_step.eval_step`: losses and metrics without an update."""
  whole = sharding.replicated_sharding(state_shapes.step.sharding.mesh)
  return jax.jit(
    functools.partial(train_step.eval_step, parts=parts), out_shardings=whole
  )
