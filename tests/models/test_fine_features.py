"""Features finer than a patch: where they lie, what they change, what they leave."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from miras_jax.config import overrides as config
from miras_jax.config import variants
from miras_jax.models import fine_features, flops
from miras_jax.models.miras import Miras, dummy_batch, init_params
from miras_jax.models.sam import Sam

# Nothing here is about the image tokens of the language model.
PLAIN = config.with_overrides(
  variants.VARIANTS["tiny"], {"convnext": None, "clip.depth": 2}
)
FINE = dataclasses.replace(
  PLAIN, sam_encoder=dataclasses.replace(PLAIN.sam_encoder, fine=True)
)


def picture_batch(cfg):
  batch = dummy_batch(cfg, batch_size=2, max_masks=2)
  rng = np.random.default_rng(0)
  shape = batch["image_sam"].shape
  batch["image_sam"] = jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8))
  batch["valid_hw"] = jnp.full((2, 2), cfg.sam_encoder.image_size, jnp.int32)
  batch["seg_valid"] = jnp.ones_like(batch["seg_valid"])
  return batch


@pytest.fixture(scope="module")
def params():
  """SAM's as they start, the others, which no test here is about, small and equal."""

  def init():
    return init_params(FINE, jax.random.key(0))

  rest = jax.tree.map(lambda x: jnp.full(x.shape, 0.02), jax.eval_shape(init))
  return rest | {"sam": jax.jit(lambda: init()["sam"])()}


def test_cells_and_back_is_the_same_map():
  x = jnp.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
  cells = fine_features.into_cells(x, 4)
  assert cells.shape == (2, 2, 3, 48)
  np.testing.assert_array_equal(fine_features.out_of_cells(cells, 4), x)


def test_neighbours_and_a_product_are_a_convolution():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(1, 5, 6, 2)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)
  wanted = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  found = fine_features.neighbours(x) @ kernel.reshape(-1, 4)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_new_ones_change_no_mask(params):
  without = {k: v for k, v in params["sam"].items() if k != "fine"}
  batch = picture_batch(FINE)
  plain = jax.jit(Miras(PLAIN).apply)({"params": params | {"sam": without}}, batch)
  fine = jax.jit(Miras(FINE).apply)({"params": params}, batch)
  for name in ("mask_logits", "iou"):
    np.testing.assert_array_equal(fine[name], plain[name])


def test_a_finer_feature_changes_the_mask_at_its_own_place_alone(params):
  """One pixel of four times the grid, one channel: one logit of each mask."""
  flat = flatten_dict(params, sep="/")
  sam = Sam(FINE.sam_encoder, FINE.sam_decoder)
  params = {"params": unflatten_dict(flat, sep="/")["sam"]}
  G, C = FINE.sam_encoder.grid, FINE.sam_encoder.out_width
  prompt = jnp.ones((1, 1, C))
  own = jax.random.normal(jax.random.key(1), (1, G, G, C))
  finer = jnp.zeros((1, 4 * G, 4 * G, C // 8)).at[0, 5, 9, 0].set(3.0)
  middle = jnp.zeros((1, G, G, C))

  def logits(finer):
    cells = fine_features.into_cells(finer, 4)
    features = jnp.concatenate([own, middle, cells], -1)
    return sam.apply(params, features, prompt, method="masks_from_text")[0][0, 0]

  changed = np.argwhere(np.asarray(logits(finer) != logits(0 * finer)))
  assert changed.tolist() == [[5, 9]]


def test_they_train_with_the_mask_decoder(params):
  def loss(params):
    return (
      Miras(FINE).apply({"params": params}, picture_batch(FINE))["mask_logits"].sum()
    )

  grads = flatten_dict(jax.jit(jax.grad(loss))(params)["sam"]["fine"], sep="/")
  assert {k for k, g in grads.items() if np.any(g)} >= {"to2/kernel", "to4/kernel"}


def test_flops_know_them():
  plain, fine = (
    {u.group: u.flops for u in flops.forward_units(cfg, 64, 2)} for cfg in (PLAIN, FINE)
  )
  assert fine.keys() - plain.keys() == {"sam/fine"}
  side, C = 4 * FINE.sam_encoder.grid, FINE.sam_encoder.out_width
  pixels = (FINE.sam_encoder.patch_size // 4) ** 2 * 3
  by_hand = 2 * side**2 * (9 * pixels * C // 4 + C // 4 * C // 8)
  by_hand += 2 * (side // 2) ** 2 * (C * C // 2 + C // 2 * C // 4)
  assert fine["sam/fine"] == by_hand


def test_a_patch_that_does_not_divide_is_refused():
  with pytest.raises(ValueError, match="fine: .*patch_size"):
    config.with_overrides(
      PLAIN, {"sam_encoder.patch_size": 2, "sam_encoder.fine": True}
    )
