"""The objective: sums and counts of a batch, comparable at any resolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.settings import LossConfig
from miras_jax.config.variants import TINY
from miras_jax.models import miras
from miras_jax.training.objective import MirasObjective, overlap


def _objective(resolution=32, **weights):
  return MirasObjective(
    miras.Miras(TINY), LossConfig(**weights or {"mask_bce": 2.0}), resolution
  )


def test_counts_are_supervised_tokens_and_valid_masks():
  batch = dict(miras.dummy_batch(TINY, batch_size=2, length=20, max_masks=2))
  batch["loss_mask"] = batch["loss_mask"].at[:, 10:13].set(1)
  batch["seg_valid"] = jnp.array([[1, 1], [1, 0]])
  counts = _objective(token_ce=1.0, dice=0.5).counts(batch)
  assert {k: float(v) for k, v in counts.items()} == {"token_ce": 6.0, "dice": 3.0}


def test_targets_are_averaged_down_to_the_loss_resolution():
  batch = dict(miras.dummy_batch(TINY, batch_size=1, length=20))
  batch["masks"] = batch["masks"].at[0, 0, 0, 0].set(1)
  logits = jnp.zeros((1, 1, 32, 32))
  _, target, _ = _objective(resolution=32).compared(logits, batch)
  assert float(target[0, 0, 0, 0]) == 0.25 and float(target.sum()) == 0.25


def test_a_resolution_that_does_not_divide_the_canvas_is_an_error():
  with pytest.raises(ValueError, match="48"):
    _objective(resolution=48)


def test_overlap_pools_pixels_of_valid_masks_only():
  logits = jnp.array([[[[1.0, -1.0]], [[1.0, 1.0]]]])
  target = jnp.array([[[[1.0, 1.0]], [[1.0, 1.0]]]])
  valid = jnp.array([[[[True, True]], [[False, False]]]])
  both, either = overlap(logits, target, valid)
  np.testing.assert_array_equal([both, either], [1.0, 2.0])


def test_a_row_without_targets_has_no_mask_loss_and_no_gradient():
  shapes = jax.eval_shape(lambda: miras.init_params(TINY, jax.random.key(0)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, "f4"), shapes)
  batch = miras.dummy_batch(TINY, batch_size=1, length=20)
  batch["segments"] = batch["segments"] + 1
  objective = _objective(mask_bce=1.0, token_ce=0.0)

  def loss(heads):  # what makes masks of states; no gradient passes them by
    return objective.sums(params | heads, batch, None)[0]["mask_bce"]

  heads = {name: params[name] for name in ("seg_prompt", "sam")}
  value, grads = jax.device_get(jax.jit(jax.value_and_grad(loss))(heads))
  assert float(value) == 0 and all(not g.any() for g in jax.tree.leaves(grads))
