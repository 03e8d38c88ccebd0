"""CLIP tower: golden parity, the selected layer, shapes at full size."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.variants import CLIP_L_336, TINY
from miras_jax.models.clip_vit import ClipVit
from tests.models.golden_llm import arrays
from tests.models.golden_params import clip_config, clip_params, images, output_of
from tests.shared_data import needs_golden


def image_of(cfg):
  shape = (1, cfg.image_size, cfg.image_size, 3)
  return jax.random.normal(jax.random.key(0), shape)


def init(module, image):
  """Compiled: the same in one program is much quicker than op by op."""
  return jax.jit(module.init)(jax.random.key(1), image)


def count(params):
  return sum(x.size for x in jax.tree.leaves(params))


@needs_golden
def test_patch_features_agree_with_the_reference():
  params = clip_params()
  apply = jax.jit(ClipVit(clip_config()).apply)
  out_BND = apply({"params": params}, images("images_clip"))
  want = arrays("outputs.npz")["clip/patch_features"]
  np.testing.assert_allclose(out_BND, want, atol=1e-4)


@needs_golden
def test_every_hidden_state_agrees_with_the_reference():
  cfg = dataclasses.replace(clip_config(), select_layer=-1)
  apply = jax.jit(functools.partial(ClipVit(cfg).apply, capture_intermediates=True))
  _, seen = apply({"params": clip_params()}, images("images_clip"))
  names = ["pre_norm"] + [f"layer_{i:02d}" for i in range(cfg.depth)]
  for i, name in enumerate(names):
    want = arrays("outputs.npz")[f"clip/hidden_{i}"]
    np.testing.assert_allclose(output_of(seen, name), want, atol=1e-4, err_msg=name)


@needs_golden
def test_published_weights_are_our_whole_tree():
  cfg = clip_config()
  ours = jax.eval_shape(ClipVit(cfg).init, jax.random.key(0), image_of(cfg))["params"]
  theirs = clip_params()
  assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, ours)


def test_blocks_past_the_selected_layer_change_nothing():
  cfg = TINY.clip
  params = init(ClipVit(cfg), image_of(cfg))["params"]
  apply = jax.jit(ClipVit(cfg).apply)
  before = apply({"params": params}, image_of(cfg))
  for name in params:
    noisy = params | {name: jax.tree.map(lambda x: x + 0.1, params[name])}
    same = np.array_equal(before, apply({"params": noisy}, image_of(cfg)))
    assert same == (name in (f"layer_{cfg.depth - 1:02d}", "post_norm")), name


def test_full_size_shapes_and_parameter_count():
  cfg = CLIP_L_336
  image = jax.ShapeDtypeStruct((2, cfg.image_size, cfg.image_size, 3), jnp.float32)
  out, variables = jax.eval_shape(
    ClipVit(cfg).init_with_output, jax.random.key(0), image
  )
  assert out.shape == (2, 576, 1024)
  D, F, P = cfg.width, cfg.mlp_width, cfg.patch_size
  block = 4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D
  embeds = D + 3 * P * P * D + (cfg.num_tokens + 1) * D
  assert count(variables["params"]) == cfg.depth * block + embeds + 2 * 2 * D


def test_bfloat16_compute_stays_near_float32():
  cfg = dataclasses.replace(TINY.clip, depth=1, select_layer=-1)
  variables = init(ClipVit(cfg), image_of(cfg))
  want = jax.jit(ClipVit(cfg).apply)(variables, image_of(cfg))
  got = jax.jit(ClipVit(cfg, jnp.bfloat16).apply)(variables, image_of(cfg))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.1)


def test_another_image_size_is_refused():
  cfg = TINY.clip
  wrong = jnp.zeros((1, cfg.image_size * 2, cfg.image_size, 3))
  with pytest.raises(ValueError, match=f"CLIP size {cfg.image_size}"):
    ClipVit(cfg).init(jax.random.key(0), wrong)


@pytest.mark.parametrize("layer", [-9, 9])
def test_a_layer_that_does_not_exist_is_refused(layer):
  with pytest.raises(ValueError, match=f"select_layer={layer} is outside the 3 blocks"):
    dataclasses.replace(TINY.clip, select_layer=layer)
