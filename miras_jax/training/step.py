"""TrainState, train_step, eval_step: pure functions, nothing else.

`jax.jit`, shardings and buffer donation are applied once, in train.py. The step sees an
`Objective`, never a Module:

  objective.weights                        {term: weight in the total}
  objective.counts(batch)               -> {term: number of valid targets, f32 scalar}
  objective.sums(params, batch, rng)    -> ({term: sum over valid targets, f32 scalar},
                                            {metric: (numerator, denominator)})

total = sum_k weights[k] * sums[k] / max(counts[k], 1). Both dicts of terms have the
same keys; a term without a weight is logged and not trained. Counts come from the batch
alone, so they are known for the whole batch before the first micro-batch runs: cutting
the batch changes nothing but the order of additions. Numerators and denominators add
across micro-batches, hosts and batches. `rng=None`: deterministic, no dropout.

A term "dice/vqa" is that of a part of the batch, here the rows of `vqa`; "loss/vqa" in
the metrics is the total that these rows would have alone.
"""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import PartitionSpec as P

from miras_jax.models.trees import merge
from miras_jax.parallel import part_keys, sharding
from miras_jax.parallel.mesh import BATCH_AXES


class Objective(Protocol):
  """What the step needs to know of the model and its losses; see the module's head."""

  weights: dict[str, float]

  def counts(self, batch) -> dict[str, jax.Array]: ...

  def sums(self, params, batch, rng) -> tuple[dict, dict]: ...


class TrainState(struct.PyTreeNode):
  """`step` counts updates (a skipped batch is none), `rng` is the run's raw key."""

  step: jax.Array
  trainable: Any
  frozen: Any
  opt_state: optax.OptState
  rng: jax.Array
  ema: Any = None


class Parts(NamedTuple):
  """The constants of a step: everything that is no array."""

  objective: Objective
  tx: optax.GradientTransformation
  schedule: optax.Schedule = optax.constant_schedule(0.0)  # for the log only
  accumulation: int = 1
  ema: float = 0.0
  keep_gathered: bool = False  # what `fsdp` cuts is whole through a step


def create_state(trainable, frozen, tx, *, seed, ema=0.0):
  """A state at step 0. The moving average starts as a copy of the parameters."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    trainable=trainable,
    frozen=frozen,
    opt_state=tx.init(trainable),
    rng=jax.random.key_data(jax.random.key(seed)),
    ema=jax.tree.map(jnp.copy, trainable) if ema else None,
  )


def train_step(state, batch, parts):
  """One update -> (state, metrics). Gradients exist for the trainable subtree only.

  A step whose loss or gradient is not finite returns the state bit-unchanged and
  metrics["skipped"] = 1.
  """
  rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  counts = parts.objective.counts(batch)
  grads, sums, pairs = _gradients(state, batch, counts, rng, parts)
  updates, opt_state = parts.tx.update(grads, state.opt_state, state.trainable)
  trainable = optax.apply_updates(state.trainable, updates)
  new = state.replace(
    step=state.step + 1,
    trainable=trainable,
    opt_state=opt_state,
    ema=_moving_average(state.ema, trainable, parts.ema),
  )
  metrics = _metrics(parts.objective.weights, sums, counts, pairs)
  metrics["grad_norm"] = optax.tree.norm(grads)
  metrics["learning_rate"] = jnp.asarray(parts.schedule(state.step), jnp.float32)
  finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
  metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
  return _keep_if(finite, new, state), metrics


def eval_step(state, batch, parts):
  """Losses and metrics without dropout; of the moving average if there is one."""
  params = merge(state.trainable if state.ema is None else state.ema, state.frozen)
  sums, pairs = parts.objective.sums(params, batch, None)
  counts = parts.objective.counts(batch)
  return _metrics(parts.objective.weights, sums, counts, pairs)


def total_loss(weights, sums, counts) -> jax.Array:
  """Weighted sum of the terms' means; a term without targets is 0."""
  return sum(w * sums[k] / jnp.maximum(counts[k], 1.0) for k, w in weights.items())


def _gradients(state, batch, counts, rng, parts):
  """(gradient, sums, metric pairs) of the whole batch.

  Of several micro-batches each part of the mesh adds up those of its own rows, and what
  it has at the end crosses the network: once a step, not once a micro-batch. Along
  `fsdp` parameters are gathered, and gradients added up, as they are used, unless
  `parts.keep_gathered`.
  """
  axes = _parts_of_batch(parts)
  if parts.accumulation == 1 or not axes:
    return _accumulate(state.trainable, state.frozen, batch, counts, rng, parts)

  def of_part(number_1, trainable, frozen, batch, counts, key):
    rng = part_keys.of_part(jax.random.wrap_key_data(key), number_1[0])
    own = _accumulate(trainable, frozen, batch, counts, rng, parts)
    return jax.lax.psum(own, axes)

  mesh = jax.sharding.get_abstract_mesh()
  # An array, since a device's own number in a mesh cut by hand in part is none.
  numbers = jnp.arange(math.prod(mesh.shape[axis] for axis in axes))
  cut = P(axes)
  return jax.shard_map(
    of_part,
    in_specs=(cut, P(), P(), cut, P(), P()),
    out_specs=P(),
    axis_names=set(axes),
    check_vma=False,  # with it, gradients would be added up where they arise
  )(
    numbers, state.trainable, state.frozen, batch, counts, jax.random.key_data(rng)
  )  # fmt: skip


def _parts_of_batch(parts):
  """Mesh axes along which the batch is cut by hand; none where that makes one part."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return ()
  gathered = parts.keep_gathered or mesh.shape["fsdp"] == 1
  axes = tuple(axis for axis in BATCH_AXES if axis != "fsdp" or gathered)
  return axes if math.prod(mesh.shape[axis] for axis in axes) > 1 else ()


def _accumulate(trainable, frozen, batch, counts, rng, parts):
  """(gradient, sums, metric pairs) of a batch, micro-batch by micro-batch."""

  def loss(trainable, micro, key):
    params = merge(trainable, frozen)
    sums, pairs = parts.objective.sums(params, micro, key)
    return total_loss(parts.objective.weights, sums, counts), (sums, pairs)

  def gradient(micro, key):
    gradient_of = jax.value_and_grad(loss, has_aux=True)
    (_, aux), grads = gradient_of(trainable, micro, key)
    return grads, *aux

  if parts.accumulation == 1:
    return gradient(batch, rng)

  def add(total, xs):
    return jax.tree.map(jnp.add, total, gradient(*xs)), None

  micro = micro_batches(batch, parts.accumulation)
  keys = jax.random.split(rng, parts.accumulation)
  shapes = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], micro), keys[0])
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(add, zeros, (micro, keys))
  return total


def micro_batches(batch, number):
  """(B, ...) -> (number, B / number, ...): every number-th example from each offset.

  Strided, so that each device cuts the examples that it already holds.
  """
  mesh = jax.sharding.get_abstract_mesh()

  def cut(x):
    x = x.reshape(x.shape[0] // number, number, *x.shape[1:]).swapaxes(0, 1)
    if mesh.empty:
      return x
    rows = sharding.still_whole(BATCH_AXES, mesh)
    return jax.lax.with_sharding_constraint(x, P(None, rows))

  return jax.tree.map(cut, batch)


def _keep_if(finite, new, old):
  """`new` where the step was finite, else `old`, leaf by leaf; frozen is in both."""
  picked = jax.tree.map(
    lambda a, b: jnp.where(finite, a, b),
    new.replace(frozen=None),
    old.replace(frozen=None),
  )
  return picked.replace(frozen=old.frozen)


def _moving_average(ema, trainable, decay):
  if ema is None:
    return None
  return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, trainable)


def _metrics(weights, sums, counts, pairs):
  terms = {k: sums[k] / jnp.maximum(counts[k], 1.0) for k in sums}
  ratios = {k: a / jnp.maximum(b, 1e-9) for k, (a, b) in pairs.items()}
  total = jnp.asarray(total_loss(weights, sums, counts))
  return {"loss": total, **_part_losses(weights, terms), **terms, **ratios}


def _part_losses(weights, terms):
  """{"loss/PART": weighted sum of its terms "TERM/PART"}."""
  losses = {}
  for name, mean in terms.items():
    term, _, part = name.partition("/")
    if part and term in weights:
      losses[f"loss/{part}"] = losses.get(f"loss/{part}", 0.0) + weights[term] * mean
  return losses
