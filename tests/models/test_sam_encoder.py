import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from miras_jax.config.model import SamEncoderConfig
from miras_jax.config.variants import SAM_VARIANTS
from miras_jax.models import sam_attention
from miras_jax.models.layers import PatchConv
from miras_jax.models.sam_attention import rows_at_a_time
from miras_jax.models.sam_encoder import (
  SamEncoder,
  join_windows,
  relative_positions,
  split_windows,
)
from tests.models import golden_sam
from tests.shared_data import needs_golden

CFG = SamEncoderConfig(
  image_size=32,
  patch_size=4,
  width=24,
  depth=2,
  num_heads=2,
  global_layers=(1,),
  window_size=3,
  out_width=16,
)


def _encode(cfg, params, image, dtype=jnp.float32):
  return jax.jit(SamEncoder(cfg, dtype).apply)({"params": params}, image)


def _wavy_sum(x):
  """A loss that every output number moves in its own way."""
  return (x * jnp.cos(jnp.arange(x.size).reshape(x.shape))).sum()


@pytest.fixture(scope="module")
def stages():
  """Outputs of all modules for the golden images."""
  image = golden_sam.channels_last(golden_sam.arrays("inputs")["images"])
  encoder = SamEncoder(golden_sam.encoder_config())
  run = jax.jit(functools.partial(encoder.apply, capture_intermediates=True))
  _, state = run({"params": golden_sam.encoder_params()}, image)
  return state["intermediates"]


@needs_golden
@pytest.mark.parametrize("name", ["patch_embed", "block_0", "block_1"])
def test_every_stage_agrees_with_the_reference(stages, name):
  ours = stages[name.replace("block_", "block_0")]["__call__"][0]
  want = golden_sam.arrays("outputs")[f"sam/{name}"]
  np.testing.assert_allclose(ours, want, atol=1e-5)


@needs_golden
def test_image_embeddings_agree_with_the_reference(stages):
  want = golden_sam.channels_last(golden_sam.arrays("outputs")["sam/image_embeddings"])
  np.testing.assert_allclose(stages["__call__"][0], want, atol=1e-5)


@needs_golden
def test_published_weights_fill_the_tree_exactly():
  cfg = golden_sam.encoder_config()
  image = jnp.zeros((1, cfg.image_size, cfg.image_size, 3))
  ours = jax.eval_shape(SamEncoder(cfg).init, jax.random.key(0), image)["params"]
  want = jax.tree.map(np.shape, golden_sam.encoder_params())
  assert jax.tree.map(lambda x: x.shape, ours) == want


def _count(cfg):
  """Parameters of a SAM encoder, by hand."""
  D, C, P = cfg.width, cfg.out_width, cfg.patch_size
  embed = P * P * 3 * D + D + cfg.grid**2 * D
  block = 2 * (2 * D) + (3 * D * D + 3 * D) + (D * D + D)
  block += 2 * cfg.mlp_ratio * D * D + cfg.mlp_ratio * D + D
  num_global = len(cfg.global_layers)
  tables = num_global * (2 * cfg.grid - 1)
  tables += (cfg.depth - num_global) * (2 * cfg.window_size - 1)
  neck = D * C + 9 * C * C + 2 * (2 * C)
  return embed + cfg.depth * block + 2 * tables * (D // cfg.num_heads) + neck


@pytest.mark.parametrize(
  "name, millions", [("vit_b", 89.7), ("vit_l", 308.3), ("vit_h", 637.0)]
)
def test_full_size_has_the_published_parameter_count(name, millions):
  cfg = SAM_VARIANTS[name]
  image = jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32)
  features, variables = jax.eval_shape(
    SamEncoder(cfg).init_with_output, jax.random.key(0), image
  )
  count = sum(x.size for x in jax.tree.leaves(variables))
  assert features.shape == (1, 64, 64, 256)
  assert count == _count(cfg)
  assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("side, window", [(8, 3), (6, 3), (2, 5)])
def test_windows_join_to_the_map_they_were_cut_from(side, window):
  x = np.random.default_rng(0).normal(size=(2, side, side, 4)).astype(np.float32)
  np.testing.assert_array_equal(join_windows(split_windows(x, window), x.shape), x)


def test_windows_keep_their_neighbourhood():
  x = np.arange(16.0).reshape(1, 4, 4, 1)
  windows = split_windows(x, 2)
  np.testing.assert_array_equal(windows[1, ..., 0], [[2, 3], [6, 7]])


@pytest.mark.parametrize("size", [1, 4, 7])
def test_relative_positions_look_up_query_minus_key(size):
  table = np.random.default_rng(0).normal(size=(2 * size - 1, 3)).astype(np.float32)
  index = np.arange(size)[:, None] - np.arange(size) + size - 1
  np.testing.assert_array_equal(relative_positions(table, size), table[index])


def test_table_of_another_size_is_interpolated_linearly():
  table = np.arange(5.0, dtype=np.float32)[:, None]  # made for 3
  ours = relative_positions(table, 5)
  # F.interpolate(mode="linear"): half-pixel centres of 9 samples on 5.
  centres = np.clip((np.arange(9) + 0.5) * 5 / 9 - 0.5, 0, 4)
  index = np.arange(5)[:, None] - np.arange(5) + 4
  np.testing.assert_allclose(ours[..., 0], centres[index], atol=1e-6)


def test_relative_positions_need_no_gather_or_scatter():
  def loss(table):
    return jnp.square(relative_positions(table, 8)).sum()

  program = str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((15, 4))))
  assert "gather" not in program and "scatter" not in program


def test_row_chunks_change_neither_output_nor_gradient(monkeypatch):
  image = jax.random.normal(jax.random.key(2), (2, 32, 32, 3))
  params = golden_sam.random_params(SamEncoder(CFG), image)

  def run():
    def loss(params):
      out = SamEncoder(CFG).apply({"params": params}, image)
      return _wavy_sum(out), out

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

  (_, whole), grads = run()
  monkeypatch.setattr(sam_attention, "MAX_LOGITS", 2 * 2 * 8 * 64)  # two rows of eight
  (_, chunked), chunked_grads = run()
  np.testing.assert_allclose(chunked, whole, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4),
    chunked_grads,
    grads,
  )


def test_global_attention_at_1024_pixels_works_on_a_few_rows():
  cfg = SAM_VARIANTS["vit_h"]
  per_row = cfg.num_heads * cfg.grid * cfg.grid**2
  rows = rows_at_a_time(cfg.grid, per_row)
  assert rows < cfg.grid and cfg.grid % rows == 0
  assert rows * per_row <= sam_attention.MAX_LOGITS


def test_padding_of_the_last_window_takes_part_as_keys():
  """A 4 x 4 map in one window of 5 is not the map in a window of 4."""
  image = jax.random.normal(jax.random.key(2), (1, 16, 16, 3))
  cfg = dataclasses.replace(CFG, image_size=16, depth=1, global_layers=())
  exact = dataclasses.replace(cfg, window_size=4)
  padded = dataclasses.replace(cfg, window_size=5)
  params = golden_sam.random_params(SamEncoder(exact), image)
  out = _encode(exact, params, image)
  for name in ("rel_pos_h", "rel_pos_w"):  # 7 offsets -> the same 7 among 9
    attn = params["block_00"]["attn"]
    attn[name] = jnp.pad(attn[name], ((1, 1), (0, 0)))
  other = _encode(padded, params, image)
  assert np.abs(out - other).max() > 1e-3


def test_every_parameter_gets_a_gradient():
  image = jax.random.normal(jax.random.key(2), (1, 32, 32, 3))
  params = golden_sam.random_params(SamEncoder(CFG), image)

  def loss(params):
    return _wavy_sum(SamEncoder(CFG).apply({"params": params}, image))

  grads = flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")
  assert [path for path, g in grads.items() if not np.abs(g).max() > 1e-6] == []


def test_image_of_another_size_gives_its_own_grid():
  image = jnp.ones((1, 32, 32, 3))
  params = golden_sam.random_params(SamEncoder(CFG), image)
  out = _encode(CFG, params, jnp.ones((1, 48, 40, 3)))
  assert out.shape == (1, 12, 10, 16)


def test_bfloat16_stays_near_float32():
  image = jax.random.normal(jax.random.key(2), (1, 32, 32, 3))
  params = golden_sam.random_params(SamEncoder(CFG), image)
  full = _encode(CFG, params, image)
  half = _encode(CFG, params, image, jnp.bfloat16)
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.1)


def test_map_that_does_not_divide_into_patches_is_an_error():
  with pytest.raises(ValueError, match="map 30x32 .* patches of 4"):
    PatchConv(8, 4).init(jax.random.key(0), jnp.ones((1, 30, 32, 3)))
