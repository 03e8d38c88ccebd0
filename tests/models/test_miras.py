"""The wiring of the whole model at tiny size, and its sizes at full size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.variants import TINY, VARIANTS
from miras_jax.models import miras


@pytest.fixture(scope="module")
def params():
  shapes = jax.eval_shape(lambda: miras.init_params(TINY, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)


def _batch():
  rng = np.random.default_rng(1)
  batch = dict(miras.dummy_batch(TINY, batch_size=2, length=24, max_masks=2))
  for name in ("image_sam", "image_aux"):
    batch[name] = jnp.asarray(rng.integers(0, 256, batch[name].shape), jnp.uint8)
  batch["tokens"] = jnp.asarray(rng.integers(0, 500, (2, 24)), jnp.int32)
  slots = np.full((2, 24), -1)
  slots[:, 1:17] = np.arange(16)
  batch["image_slot"] = jnp.asarray(slots, jnp.int32)
  batch["positions"] = jnp.tile(jnp.arange(24), (2, 1))
  batch["segments"] = jnp.ones((2, 24), jnp.int32)
  batch["seg_pos"] = jnp.array([[20, 22], [21, 0]])
  batch["obj_pos"] = jnp.full((2, 2), -1)
  batch["seg_valid"] = jnp.array([[1, 1], [1, 0]])
  batch["valid_hw"] = jnp.array([[64, 48], [64, 64]])
  return batch


@jax.jit
def _masks(params, batch):
  return miras.Miras(TINY).apply({"params": params}, batch)["mask_logits"]


def test_masks_have_a_quarter_of_the_canvas(params):
  side = 4 * TINY.sam_encoder.grid
  assert _masks(params, _batch()).shape == (2, 2, side, side)


def test_a_mask_depends_on_a_token_before_its_seg_only(params):
  batch = _batch()
  base = _masks(params, batch)
  before = _masks(params, batch | {"tokens": batch["tokens"].at[0, 18].add(1)})
  after = _masks(params, batch | {"tokens": batch["tokens"].at[0, 21].add(1)})
  assert jnp.abs(base[0, 0] - before[0, 0]).max() > 1e-4
  np.testing.assert_array_equal(base[0, 0], after[0, 0])


def test_pixels_beyond_the_valid_region_change_nothing(params):
  batch = _batch()
  padded = batch["image_sam"].at[0, :, 48:].set(255)
  np.testing.assert_array_equal(
    _masks(params, batch), _masks(params, batch | {"image_sam": padded})
  )


def test_without_the_second_encoder_there_is_no_mining():
  cfg = dataclasses.replace(TINY, convnext=None)
  shapes = jax.eval_shape(lambda: miras.init_params(cfg, jax.random.key(0)))
  assert not {"convnext", "mining"} & set(shapes)


@pytest.mark.parametrize(
  "variant, decoder",
  [("7b", 6_738_415_616), ("13b", 13_015_864_320), ("70b", 68_976_648_192)],
)
def test_published_decoders_have_their_published_size(variant, decoder):
  cfg = VARIANTS[variant]
  shapes = jax.eval_shape(lambda: miras.init_params(cfg, jax.random.key(0)))
  assert sum(x.size for x in jax.tree.leaves(shapes["llm"])) == decoder
