"""ConvNeXt tower: an image becomes one high-resolution feature map (arXiv 2201.03545).

B batch, H W height and width, C channels, K kernel size.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from miras_jax.config.model import ConvNextConfig
from miras_jax.models.blocks import run_blocks
from miras_jax.models.layers import (
  LayerNorm,
  Linear,
  PatchConv,
  exact_gelu,
  resize_bilinear,
)


@jax.custom_vjp
def depthwise_conv(x_BHWC, kernel_KKC):
  """Each channel convolved with its own K x K kernel, zero padded to the same size.

  XLA:CPU runs its grouped convolution 10 to 40 times slower than K * K shifted
  multiply-adds, so the CPU gets those; other platforms keep the convolution.
  """
  return jax.lax.platform_dependent(
    x_BHWC, kernel_KKC, cpu=_shifted_conv, default=_grouped_conv
  )


def _grouped_conv(x_BHWC, kernel_KKC):
  return jax.lax.conv_general_dilated(
    x_BHWC,
    kernel_KKC[:, :, None],
    window_strides=(1, 1),
    padding="SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x_BHWC.shape[-1],
  )


def _pad(x_BHWC, size):
  return jnp.pad(x_BHWC, ((0, 0), (size, size), (size, size), (0, 0)))


def _shifted_conv(x_BHWC, kernel_KKC):
  """The same as one fused sum over shifted copies, in float32."""
  H, W, K = *x_BHWC.shape[1:3], kernel_KKC.shape[0]
  half = K // 2
  x, kernel = _pad(x_BHWC, half).astype(jnp.float32), kernel_KKC.astype(jnp.float32)
  y = jnp.zeros(x_BHWC.shape, jnp.float32)
  for i in range(max(0, half - H + 1), min(K, half + H)):  # other rows meet only zeros
    for j in range(max(0, half - W + 1), min(K, half + W)):
      y += x[:, i : i + H, j : j + W] * kernel[i, j]
  return y.astype(x_BHWC.dtype)


def _shifted_grads(x_BHWC, kernel_KKC, dy_BHWC):
  """Gradients of `_shifted_conv`. The kernel's is a matrix product per channel and row
  that pairs all columns, of which K diagonals count: W / K times the multiplications of
  K * K plain reductions, and still faster."""
  W, K = x_BHWC.shape[2], kernel_KKC.shape[0]
  x_BHWC_padded = jnp.pad(x_BHWC, ((0, 0), (K // 2, K // 2), (0, 0), (0, 0)))
  diagonals_KVW = jnp.stack([jnp.eye(W, k=K // 2 - j) for j in range(K)])
  rows = []
  for i in range(K):
    x_BHVC = x_BHWC_padded[:, i : i + x_BHWC.shape[1]]
    pairs_CVW = jnp.einsum(
      "BHVC,BHWC->CVW", x_BHVC, dy_BHWC, preferred_element_type=jnp.float32
    )
    rows.append(jnp.einsum("CVW,KVW->KC", pairs_CVW, diagonals_KVW))
  dkernel_KKC = jnp.stack(rows).astype(kernel_KKC.dtype)
  return _shifted_conv(dy_BHWC, kernel_KKC[::-1, ::-1]), dkernel_KKC


def _grouped_grads(x_BHWC, kernel_KKC, dy_BHWC):
  return jax.vjp(_grouped_conv, x_BHWC, kernel_KKC)[1](dy_BHWC)


def _forward(x_BHWC, kernel_KKC):
  return depthwise_conv(x_BHWC, kernel_KKC), (x_BHWC, kernel_KKC)


def _backward(saved, dy_BHWC):
  return jax.lax.platform_dependent(
    *saved, dy_BHWC, cpu=_shifted_grads, default=_grouped_grads
  )


depthwise_conv.defvjp(_forward, _backward)


class DepthwiseConv(nn.Module):
  """`depthwise_conv` plus bias. Parameters: `kernel [K, K, 1, C]`, `bias [C]`."""

  kernel_size: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BHWC):
    K, C = self.kernel_size, x_BHWC.shape[-1]
    if K % 2 == 0:
      raise ValueError(f"the depthwise convolution needs an odd size, not {K}")
    kernel = self.param("kernel", nn.initializers.lecun_normal(), (K, K, 1, C))
    bias_C = self.param("bias", nn.initializers.zeros, (C,))
    kernel_KKC = kernel[:, :, 0].astype(self.dtype)
    y_BHWC = depthwise_conv(x_BHWC.astype(self.dtype), kernel_KKC)
    return y_BHWC + bias_C.astype(self.dtype)


class Block(nn.Module):
  """Depthwise convolution, norm and MLP, scaled per channel by `gamma`, plus input."""

  cfg: ConvNextConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BHWC):
    cfg, dtype, C = self.cfg, self.dtype, x_BHWC.shape[-1]
    h = DepthwiseConv(cfg.kernel_size, dtype, name="dwconv")(x_BHWC)
    h = LayerNorm(cfg.norm_eps, dtype, name="norm")(h)
    h = exact_gelu(Linear(cfg.mlp_ratio * C, dtype=dtype, name="fc1")(h))
    h = Linear(C, dtype=dtype, name="fc2")(h)
    init = nn.initializers.constant(cfg.layer_scale_init)
    gamma_C = self.param("gamma", init, (C,))
    return x_BHWC + h * gamma_C.astype(dtype)


class Stem(nn.Module):
  cfg: ConvNextConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image_BHWC):
    x_BHWC = PatchConv(self.cfg.dims[0], patch=4, dtype=self.dtype, name="conv")(
      image_BHWC
    )
    return LayerNorm(self.cfg.norm_eps, self.dtype, name="norm")(x_BHWC)


class Downsample(nn.Module):
  cfg: ConvNextConfig
  width: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BHWC):
    x_BHWC = LayerNorm(self.cfg.norm_eps, self.dtype, name="norm")(x_BHWC)
    return PatchConv(self.width, patch=2, dtype=self.dtype, name="conv")(x_BHWC)


class Stage(nn.Module):
  """`index` 0..3. Every stage but the first halves height and width."""

  cfg: ConvNextConfig
  index: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BHWC):
    cfg, dtype = self.cfg, self.dtype
    if self.index > 0:
      width = cfg.dims[self.index]
      x_BHWC = Downsample(cfg, width, dtype, name="downsample")(x_BHWC)
    make = functools.partial(Block, cfg, dtype)
    names = [f"block_{i:02d}" for i in range(cfg.depths[self.index])]
    # The last block alone: `trainable=...+convnext_last_blocks` trains it.
    for run in (names[:-1], names[-1:]):
      x_BHWC = run_blocks(self, make, run, x_BHWC, scan=cfg.scan_blocks)
    return x_BHWC


class ConvNext(nn.Module):
  """Normalised image [B, H, W, 3] -> features [B, G, G, sum(dims)], G = target_grid.

  The four stages, each resized to one grid, lie behind each other in the channels.
  differs from reference: no stochastic depth, which the published code leaves switched
  on in this frozen tower, so that its features are random in training.
  """

  cfg: ConvNextConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image_BHWC):
    cfg, grid = self.cfg, self.cfg.target_grid
    x_BHWC = Stem(cfg, self.dtype, name="stem")(image_BHWC)
    maps = []
    for i in range(len(cfg.dims)):
      x_BHWC = Stage(cfg, i, self.dtype, name=f"stage_{i}")(x_BHWC)
      maps.append(resize_bilinear(x_BHWC, grid, grid))
    return jnp.concatenate(maps, axis=-1)
