"""Patch mining and projector: golden parity, the folded form, cells under a patch."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.variants import CLIP_L_336, CONVNEXT_L_768
from miras_jax.models.clip_vit import ClipVit
from miras_jax.models.fusion import (
  PatchMining,
  Projector,
  cell_weights,
  grid_views,
  group_cells,
  mine_patches,
  mining_tensors,
)
from tests.models.golden_llm import arrays
from tests.models.golden_params import (
  clip_config,
  clip_params,
  fusion_params,
  nhwc,
  output_of,
)
from tests.shared_data import needs_golden

GRID, WIDTH, CHANNELS = 3, 8, 20


def golden(name):
  return arrays("outputs.npz")[name]


def golden_mining():
  cfg = clip_config()
  return PatchMining(cfg.width, cfg.grid), fusion_params()["mining"]


def random_mining():
  """(module, parameters away from their initial zeros and ones, tokens, features)."""
  keys = jax.random.split(jax.random.key(0), 4)
  tokens_BND = jax.random.normal(keys[0], (2, GRID**2, WIDTH))
  features_BHWC = jax.random.normal(keys[1], (2, 2 * GRID, 2 * GRID, CHANNELS))
  module = PatchMining(WIDTH, GRID)
  params = jax.jit(module.init)(keys[2], tokens_BND, features_BHWC)["params"]
  leaves, tree = jax.tree.flatten(params)
  noise = jax.random.split(keys[3], len(leaves))
  leaves = [
    x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(noise, leaves, strict=True)
  ]
  return module, jax.tree.unflatten(tree, leaves), tokens_BND, features_BHWC


@needs_golden
def test_the_published_form_agrees_with_the_reference():
  _, params = golden_mining()
  tensors = mining_tensors(
    params, golden("clip/patch_features"), nhwc("aux/concat"), grid=clip_config().grid
  )
  tensors["attention"] = tensors["attention"][:, :, None]
  for name, got in tensors.items():
    np.testing.assert_allclose(got, golden(f"mining/{name}"), atol=1e-4, err_msg=name)


@needs_golden
def test_the_module_agrees_with_the_reference():
  module, params = golden_mining()
  out_BND, seen = module.apply(
    {"params": params},
    golden("clip/patch_features"),
    nhwc("aux/concat"),
    capture_intermediates=True,
  )
  query_BND = output_of(seen, "query_proj")
  np.testing.assert_allclose(query_BND, golden("mining/query"), atol=1e-4)
  attention_BNP = cell_weights(
    output_of(seen, "key_proj"), output_of(seen, "key_norm"), scale=module.width**-0.5
  )
  np.testing.assert_allclose(
    attention_BNP[:, :, None], golden("mining/attention"), atol=1e-4
  )
  mined_BND = output_of(seen, "value_proj")
  np.testing.assert_allclose(mined_BND, golden("mining/mined"), atol=1e-4)
  np.testing.assert_allclose(out_BND, golden("mining/fused_features"), atol=1e-4)


@needs_golden
def test_image_tokens_agree_with_the_reference():
  params = fusion_params()["projector"]
  want = golden("image_tokens")
  out_BND = Projector(want.shape[-1]).apply(
    {"params": params}, golden("mining/fused_features")
  )
  np.testing.assert_allclose(out_BND, want, atol=1e-4)


@needs_golden
def test_grid_mode_agrees_with_the_reference():
  cfg, params = clip_config(), fusion_params()
  # The golden CLIP inputs have the global view last, the image tokens have it first.
  views = np.roll(arrays("inputs.npz")["grid_images_clip"], 1, axis=1)
  B, V = views.shape[:2]
  views = views.reshape(-1, *views.shape[2:]).transpose(0, 2, 3, 1)
  tokens = jax.jit(ClipVit(cfg).apply)({"params": clip_params()}, views)
  first_row_of_image = arrays("inputs.npz")["offset"][:B]
  features = grid_views(nhwc("aux/concat")[first_row_of_image], math.isqrt(V - 1))
  fused = PatchMining(cfg.width, cfg.grid).apply(
    {"params": params["mining"]}, tokens, features.reshape(B * V, *features.shape[2:])
  )
  want = golden("grid/image_tokens")
  out = Projector(want.shape[-1]).apply({"params": params["projector"]}, fused)
  np.testing.assert_allclose(out.reshape(want.shape), want, atol=1e-4)


def test_folding_changes_neither_result_nor_gradients():
  module, params, tokens, features = random_mining()

  def folded(params, tokens, features):
    return module.apply({"params": params}, tokens, features)

  def plain(params, tokens, features):
    return mining_tensors(params, tokens, features, grid=GRID)["fused_features"]

  @functools.partial(jax.jit, static_argnums=0)
  def output_and_grads(form, *args):
    out, pull_back = jax.vjp(form, *args)
    return out, pull_back(jnp.cos(jnp.arange(out.size)).reshape(out.shape))

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-4),
    output_and_grads(folded, params, tokens, features),
    output_and_grads(plain, params, tokens, features),
  )


def test_group_cells_puts_each_cell_under_its_patch():
  row, column = np.indices((4, 6))
  x_BHWC = jnp.asarray(np.stack([row, column], -1)[None])
  cells_BNPC = group_cells(x_BHWC, 2)
  assert cells_BNPC.shape == (1, 4, 6, 2)
  np.testing.assert_array_equal(cells_BNPC[0, 1, :, 0], [0, 0, 0, 1, 1, 1])
  np.testing.assert_array_equal(cells_BNPC[0, 1, :, 1], [3, 4, 5, 3, 4, 5])


def test_group_cells_refuses_a_map_that_does_not_divide():
  with pytest.raises(ValueError, match="5x4"):
    group_cells(jnp.zeros((1, 5, 4, 3)), 2)


def test_mine_patches_returns_the_value_of_the_matching_cell():
  key_BNPC = jnp.eye(3)[None, None]
  mined_BNC = mine_patches(100 * key_BNPC[:, :, 1], key_BNPC, 7 * key_BNPC, scale=1.0)
  np.testing.assert_allclose(mined_BNC, [[[0, 7, 0]]], atol=1e-5)


def test_a_patch_sees_only_its_own_cells():
  module, params, tokens, features = random_mining()
  before = module.apply({"params": params}, tokens, features)
  after = module.apply({"params": params}, tokens, features.at[:, :2, :2].add(1.0))
  moved_N = np.any(np.asarray(before != after), axis=(0, 2))
  np.testing.assert_array_equal(moved_N, np.arange(GRID**2) == 0)


def test_bfloat16_mining_stays_near_float32():
  _, params, tokens, features = random_mining()
  want = PatchMining(WIDTH, GRID).apply({"params": params}, tokens, features)
  got = PatchMining(WIDTH, GRID, jnp.bfloat16).apply(
    {"params": params}, tokens.astype(jnp.bfloat16), features.astype(jnp.bfloat16)
  )
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.1)


def test_full_size_shapes_and_parameter_count():
  D, C, G = CLIP_L_336.width, CONVNEXT_L_768.out_channels, CONVNEXT_L_768.target_grid
  tokens = jax.ShapeDtypeStruct((2, CLIP_L_336.num_tokens, D), jnp.float32)
  features = jax.ShapeDtypeStruct((2, G, G, C), jnp.float32)
  out, variables = jax.eval_shape(
    PatchMining(D, CLIP_L_336.grid).init_with_output,
    jax.random.key(0),
    tokens,
    features,
  )
  assert out.shape == tokens.shape
  want = (D * D + D + 2 * D) + 2 * (C * D + D + 2 * C)
  assert sum(x.size for x in jax.tree.leaves(variables)) == want


def test_projector_maps_to_the_language_width():
  x = jax.ShapeDtypeStruct((2, 576, 1024), jnp.float32)
  out, variables = jax.eval_shape(
    Projector(4096).init_with_output, jax.random.key(0), x
  )
  assert out.shape == (2, 576, 4096)
  want = (1024 * 4096 + 4096) + (4096 * 4096 + 4096)
  assert sum(x.size for x in jax.tree.leaves(variables)) == want


def test_a_linear_projector_is_one_matrix():
  x = jax.random.normal(jax.random.key(0), (1, 3, 8))
  projector = Projector(12, kind="linear")
  out, variables = projector.init_with_output(jax.random.key(1), x)
  (layer,) = variables["params"].values()
  assert layer["kernel"].shape == (8, 12)
  np.testing.assert_allclose(out, x @ layer["kernel"] + layer["bias"], atol=1e-5)
