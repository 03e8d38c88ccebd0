"""train_step: accumulation, skipped steps, frozen parameters, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miras_jax.config.settings import MeshConfig
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.scale import collectives, hlo
from miras_jax.training import step as train_step
from tests import toy

RULES = ((r"kernel$", jax.sharding.PartitionSpec("fsdp", "tensor")),)


def make_state(ema=0.0):
  params = toy.params()
  tx = optax.adamw(1e-2)
  state = train_step.create_state(
    {"llm": params["llm"]}, {"clip": params["clip"]}, tx, seed=3, ema=ema
  )
  return state, train_step.Parts(toy.ToyObjective(), tx, ema=ema)


@pytest.fixture
def batch():
  return toy.batch(np.random.default_rng(0))


def leaves_equal(a, b):
  return all(
    np.array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@pytest.mark.parametrize("number", [2, 4, 16])
def test_accumulation_equals_one_big_batch(batch, number):
  state, parts = make_state()
  whole, metrics = train_step.train_step(state, batch, parts)
  cut, cut_metrics = train_step.train_step(
    state, batch, parts._replace(accumulation=number)
  )
  for name in metrics:
    np.testing.assert_allclose(cut_metrics[name], metrics[name], rtol=1e-6)
  np.testing.assert_allclose(
    cut.trainable["llm"]["kernel"], whole.trainable["llm"]["kernel"], atol=1e-6
  )


def test_loss_divides_each_term_by_its_own_global_count(batch):
  state, parts = make_state()
  _, metrics = train_step.train_step(state, batch, parts._replace(accumulation=4))
  params = toy.params()
  sums, _ = toy.ToyObjective().sums(params, batch, None)
  ce = sums["ce"] / batch["mask"].sum()
  dice = sums["dice"] / (batch["mask"].sum(-1) > 0).sum()
  np.testing.assert_allclose(metrics["ce"], ce, rtol=1e-6)
  np.testing.assert_allclose(metrics["loss"], ce + 0.5 * dice, rtol=1e-6)


def test_a_batch_without_targets_is_a_finite_zero_loss(batch):
  state, parts = make_state()
  empty = batch | {"mask": np.zeros_like(batch["mask"])}
  _, metrics = train_step.train_step(state, empty, parts)
  assert float(metrics["loss"]) == 0.0 and float(metrics["skipped"]) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("number", [1, 4])
def test_non_finite_step_leaves_the_state_bit_unchanged(batch, bad, number):
  state, parts = make_state(ema=0.9)
  state, _ = train_step.train_step(state, batch, parts)
  batch["y"][3, 2] = bad
  batch["mask"][3] = 1
  after, metrics = train_step.train_step(
    state, batch, parts._replace(accumulation=number)
  )
  assert float(metrics["skipped"]) == 1.0
  assert leaves_equal(after, state)


def test_training_goes_on_after_a_skipped_step(batch):
  state, parts = make_state()
  bad = batch | {"y": np.full_like(batch["y"], np.nan)}
  skipped, _ = train_step.train_step(state, bad, parts)
  after, metrics = train_step.train_step(skipped, batch, parts)
  straight, _ = train_step.train_step(state, batch, parts)
  assert float(metrics["skipped"]) == 0.0
  assert leaves_equal(after, straight)


def test_frozen_parameters_have_no_gradient_and_no_optimizer_slot(batch):
  state, parts = make_state()
  after, _ = train_step.train_step(state, batch, parts)
  assert leaves_equal(after.frozen, state.frozen)
  shapes = {x.shape for x in jax.tree.leaves(state.opt_state)}
  assert state.frozen["clip"]["kernel"].shape not in shapes
  assert not leaves_equal(after.trainable, state.trainable)


def test_moving_average_follows_by_its_decay(batch):
  state, parts = make_state(ema=0.75)
  after, _ = train_step.train_step(state, batch, parts)
  expected = jax.tree.map(
    lambda old, new: 0.75 * old + 0.25 * new, state.trainable, after.trainable
  )
  np.testing.assert_allclose(
    after.ema["llm"]["kernel"], expected["llm"]["kernel"], atol=1e-7
  )


def test_evaluation_reads_the_moving_average(batch):
  state, parts = make_state(ema=0.5)
  moved = state.replace(ema=jax.tree.map(lambda x: x * 0.0, state.ema))
  metrics = train_step.eval_step(moved, batch, parts)
  expected = (np.square(batch["y"]) * batch["mask"]).sum() / batch["mask"].sum()
  np.testing.assert_allclose(metrics["ce"], expected, rtol=1e-6)


def test_random_numbers_differ_between_steps_and_repeat_between_runs(batch):
  state, parts = make_state()
  parts = parts._replace(objective=toy.ToyObjective(noise=0.5), tx=optax.sgd(0.0))
  state = state.replace(opt_state=parts.tx.init(state.trainable))
  state_1, first = train_step.train_step(state, batch, parts)
  _, second = train_step.train_step(state_1, batch, parts)
  _, again = train_step.train_step(state, batch, parts)
  assert float(first["loss"]) != float(second["loss"])
  assert float(first["loss"]) == float(again["loss"])


def test_micro_batches_take_every_example_once():
  micro = train_step.micro_batches({"x": jnp.arange(12)}, 3)["x"]
  assert micro.shape == (3, 4)
  assert sorted(np.ravel(micro)) == list(range(12))


MESHES = {
  "data": {"data": 8},
  "fsdp": {"data": 1, "fsdp": 8},
  "tensor": {"data": 1, "tensor": 4, "sequence": 2},
  "mix": {"dcn_data": 2, "data": 1, "fsdp": 2, "tensor": 2},
}


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("number", [1, 2])
def test_eight_devices_give_the_losses_of_one(name, number):
  cfg = MeshConfig(**MESHES[name])
  one = run_on(mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1]), number)
  many = run_on(mesh_lib.make_mesh(cfg, jax.devices()[:8]), number)
  np.testing.assert_allclose(many[0], one[0], rtol=1e-5)
  assert leaves_equal(many[1].frozen, one[1].frozen)


@pytest.mark.parametrize("name", ["data", "fsdp", "mix"])
def test_what_is_random_does_not_depend_on_how_the_batch_is_cut(name):
  noisy = {"objective": toy.ToyObjective(noise=0.5), "keep_gathered": True}
  one = run_on(mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1]), 2, **noisy)
  cfg = MeshConfig(**MESHES[name])
  many = run_on(mesh_lib.make_mesh(cfg, jax.devices()[:8]), 2, **noisy)
  np.testing.assert_allclose(many[0], one[0], rtol=1e-5)


@pytest.mark.parametrize(
  "sizes, kept", [({"data": 8}, False), ({"data": 2, "fsdp": 4}, True)]
)
def test_gradients_cross_the_network_once_after_all_micro_batches(sizes, kept):
  mesh = mesh_lib.make_mesh(MeshConfig(**sizes), jax.devices()[:8])
  state, parts = make_state()
  parts = parts._replace(accumulation=4, keep_gathered=kept)
  with jax.set_mesh(mesh):
    places = sharding.state_shardings(jax.eval_shape(lambda: state), mesh, RULES)
    step = jax.jit(
      functools.partial(train_step.train_step, parts=parts),
      in_shardings=(places, sharding.batch_sharding(mesh)),
    )
    batch = toy.batch(np.random.default_rng(0), size=64)
    module = hlo.parse(step.lower(state, batch).compile().as_text())
  inside = [v for v in hlo.walk(module) if v.loops]
  kinds = {v.instruction.opcode for v in inside}
  assert inside and not any(kind.startswith(collectives.KINDS) for kind in kinds)


def run_on(mesh, accumulation, steps=5, **changes):
  """(losses, final state on the host) of a few steps on a mesh."""
  state, parts = make_state()
  parts = parts._replace(accumulation=accumulation, **changes)
  rng = np.random.default_rng(1)
  with jax.set_mesh(mesh):
    shardings = sharding.state_shardings(jax.eval_shape(lambda: state), mesh, RULES)
    state = jax.device_put(state, shardings)
    step = jax.jit(
      functools.partial(train_step.train_step, parts=parts),
      in_shardings=(shardings, sharding.batch_sharding(mesh)),
      out_shardings=(shardings, None),
      donate_argnums=0,
    )
    losses = []
    for _ in range(steps):
      batch = jax.device_put(toy.batch(rng), sharding.batch_sharding(mesh))
      state, metrics = step(state, batch)
      losses.append(float(metrics["loss"]))
  return losses, jax.device_get(state)
