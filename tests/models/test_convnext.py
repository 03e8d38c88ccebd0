"""ConvNeXt tower: golden parity, the depthwise convolution, shapes at full size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.variants import CONVNEXT_L_768, TINY
from miras_jax.models.convnext import Block, ConvNext, DepthwiseConv, depthwise_conv
from tests.models.golden_params import (
  convnext_config,
  convnext_params,
  images,
  nhwc,
  output_of,
)
from tests.shared_data import needs_golden


def image_of(cfg):
  shape = (1, cfg.image_size, cfg.image_size, 3)
  return jax.random.normal(jax.random.key(0), shape)


def init(module, image):
  """Compiled: the same in one program is much quicker than op by op."""
  return jax.jit(module.init)(jax.random.key(1), image)


def library_conv(x_BHWC, kernel_KKC):
  """The oracle: XLA's own grouped convolution."""
  return jax.lax.conv_general_dilated(
    x_BHWC,
    kernel_KKC[:, :, None],
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x_BHWC.shape[-1],
  )


@functools.partial(jax.jit, static_argnums=0)
def output_and_grads(conv, x, kernel, dy):
  out, pull_back = jax.vjp(conv, x, kernel)
  return out, *pull_back(dy)


def conv_inputs(height, width, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  shape = (2, height, width, 5)
  x, dy = (jax.random.normal(k, shape, dtype) for k in keys[:2])
  return x, jax.random.normal(keys[2], (7, 7, 5), dtype), dy


@needs_golden
def test_every_stage_agrees_with_the_reference():
  module = ConvNext(convnext_config())
  apply = jax.jit(functools.partial(module.apply, capture_intermediates=True))
  params = convnext_params()
  out_BHWC, seen = apply({"params": params}, images("images_aux"))
  for name in ("stem", "stage_0", "stage_1", "stage_2", "stage_3"):
    np.testing.assert_allclose(
      output_of(seen, name), nhwc(f"aux/{name}"), atol=1e-4, err_msg=name
    )
  np.testing.assert_allclose(out_BHWC, nhwc("aux/concat"), atol=1e-4)


@needs_golden
def test_published_weights_are_our_whole_tree():
  cfg = convnext_config()
  ours = jax.eval_shape(ConvNext(cfg).init, jax.random.key(0), image_of(cfg))["params"]
  theirs = convnext_params()
  assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, ours)


@pytest.mark.parametrize("height,width", [(9, 8), (4, 2), (1, 1)])
def test_depthwise_conv_and_gradients_equal_the_library(height, width):
  x, kernel, dy = conv_inputs(height, width)
  got = output_and_grads(depthwise_conv, x, kernel, dy)
  want = output_and_grads(library_conv, x, kernel, dy)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_depthwise_conv_keeps_bfloat16():
  x, kernel, dy = conv_inputs(6, 6, jnp.bfloat16)
  got = output_and_grads(depthwise_conv, x, kernel, dy)
  assert [a.dtype for a in got] == [jnp.bfloat16] * 3


@pytest.mark.parametrize("platform,is_conv", [("cpu", False), ("tpu", True)])
def test_only_the_cpu_replaces_the_convolution(platform, is_conv):
  x, kernel, _ = conv_inputs(6, 6)
  lowered = (
    jax.jit(depthwise_conv).trace(x, kernel).lower(lowering_platforms=(platform,))
  )
  assert ("stablehlo.convolution" in lowered.as_text()) == is_conv


def test_an_even_kernel_is_refused():
  with pytest.raises(ValueError, match="odd size, not 4"):
    DepthwiseConv(4).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_full_size_shapes_and_parameter_count():
  cfg = CONVNEXT_L_768
  image = jax.ShapeDtypeStruct((2, cfg.image_size, cfg.image_size, 3), jnp.float32)
  out, variables = jax.eval_shape(
    ConvNext(cfg).init_with_output, jax.random.key(0), image
  )
  assert out.shape == (2, 48, 48, 2880)
  # depthwise, two linears, norm, gamma
  blocks = sum(
    n * ((49 * C + C) + (4 * C * C + 4 * C) + (4 * C * C + C) + 2 * C + C)
    for n, C in zip(cfg.depths, cfg.dims, strict=True)
  )
  downs = sum(
    2 * a + 4 * a * b + b for a, b in zip(cfg.dims[:-1], cfg.dims[1:], strict=True)
  )
  stem = 3 * 16 * cfg.dims[0] + cfg.dims[0] + 2 * cfg.dims[0]
  total = sum(x.size for x in jax.tree.leaves(variables["params"]))
  assert total == blocks + downs + stem
  assert round(total / 1e6, 1) == 196.2  # the published count without its head


def test_a_fresh_block_is_scaled_by_gamma():
  cfg = TINY.convnext
  params = init(Block(cfg), jnp.zeros((1, 4, 4, 3)))["params"]
  np.testing.assert_array_equal(params["gamma"], np.float32(cfg.layer_scale_init))


def test_bfloat16_compute_stays_near_float32():
  x_BHWC, _, _ = conv_inputs(6, 6)
  block, half = Block(TINY.convnext), Block(TINY.convnext, jnp.bfloat16)
  variables = init(block, x_BHWC)
  want = jax.jit(block.apply)(variables, x_BHWC)
  got = jax.jit(half.apply)(variables, x_BHWC.astype(jnp.bfloat16))
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.1)
