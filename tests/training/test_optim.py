"""Schedules hit their corners; clipping and decay act where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miras_jax.config.settings import OptimConfig
from miras_jax.errors import UserError
from miras_jax.training import optim


def test_linear_schedule_warms_up_and_ends_at_zero():
  schedule = optim.make_schedule(OptimConfig(lr=1.0, warmup_steps=10), steps=110)
  np.testing.assert_allclose(schedule(0), 0.1, rtol=1e-6)
  np.testing.assert_allclose(schedule(9), 1.0, rtol=1e-6)
  np.testing.assert_allclose(schedule(60), 0.5, rtol=1e-6)
  np.testing.assert_allclose(schedule(110), 0.0, atol=1e-7)


def test_cosine_schedule_is_half_way_down_in_the_middle():
  cfg = OptimConfig(lr=2.0, schedule="cosine", warmup_steps=0)
  np.testing.assert_allclose(optim.make_schedule(cfg, steps=100)(50), 1.0, rtol=1e-6)


def test_warm_up_longer_than_the_run_still_ends():
  schedule = optim.make_schedule(OptimConfig(lr=1.0, warmup_steps=100), steps=5)
  assert np.isfinite([float(schedule(i)) for i in range(6)]).all()


def test_an_unknown_schedule_names_the_valid_ones():
  with pytest.raises(UserError, match="'cosin'.*cosine"):
    OptimConfig(schedule="cosin")


def test_gradients_are_clipped_by_their_global_norm():
  cfg = OptimConfig(lr=1.0, warmup_steps=0, clip_norm=1.0)
  params = {"a": {"kernel": jnp.zeros((2, 2))}, "b": {"bias": jnp.zeros(4)}}
  tx = optim.make_optimizer(cfg, steps=10)
  small = jax.tree.map(lambda x: jnp.full_like(x, 1.0), params)
  large = jax.tree.map(lambda x: x * 1000, small)
  state_small = tx.update(small, tx.init(params), params)[1]
  state_large = tx.update(large, tx.init(params), params)[1]
  for a, b in zip(
    jax.tree.leaves(state_small), jax.tree.leaves(state_large), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_weight_decay_leaves_scales_alone_even_when_scanned():
  cfg = OptimConfig(lr=0.1, warmup_steps=0, weight_decay=0.5)
  params = {"kernel": jnp.ones((3, 2)), "scale": jnp.ones((3, 2))}
  tx = optim.make_optimizer(cfg, steps=10)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zero, tx.init(params), params)
  np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-5)
  np.testing.assert_array_equal(updates["scale"], 0.0)


def test_first_moments_are_float32_for_bfloat16_gradients():
  params = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
  tx = optim.make_optimizer(OptimConfig(), steps=10)
  mu = optax.tree.get(tx.init(params), "mu")
  assert mu["kernel"].dtype == jnp.float32


def test_muon_moves_kernels_and_leaves_the_rest_to_adamw():
  kernel, stacked = jnp.zeros((4, 6)), jnp.zeros((2, 4, 6))
  params = {
    "llm": {"layers": {"q_proj": {"kernel": stacked}}, "lm_head": {"kernel": kernel}},
    "projector": {"fc1": {"kernel": kernel, "bias": jnp.zeros(6)}},
  }
  axes = optim.muon_matrices(params)
  assert axes["llm"]["layers"]["q_proj"]["kernel"] == (1, 2)
  assert axes["projector"]["fc1"]["kernel"] == (0, 1)
  assert axes["llm"]["lm_head"]["kernel"] is None
  assert axes["projector"]["fc1"]["bias"] is None


def test_a_muon_update_of_a_matrix_is_orthogonal():
  cfg = OptimConfig(name="muon", muon_lr=1.0, warmup_steps=0, clip_norm=0.0)
  params = {"fc": {"kernel": jnp.zeros((8, 8))}}
  grads = {"fc": {"kernel": jax.random.normal(jax.random.key(0), (8, 8))}}
  tx = optim.make_optimizer(cfg, steps=10)
  update, _ = tx.update(grads, tx.init(params), params)
  singular = jnp.linalg.svd(update["fc"]["kernel"], compute_uv=False)
  assert 0.5 < float(singular.min()) and float(singular.max()) < 1.5
