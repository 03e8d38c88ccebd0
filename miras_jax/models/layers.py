"""Layers every part shares: Linear with optional LoRA, norms, plain MLP.

B batch, T tokens, D width, F mlp width, R LoRA rank. Leading axes are free.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = Any
KERNEL_SCALE = "kernel_scale"  # [F] beside an int8 kernel: see inference/prepare.py


class Linear(nn.Module):
  """`x @ kernel + bias`, plus `x @ lora_a @ lora_b * scale` when `lora_rank > 0`.

  Parameters: `kernel [D, F]`, `bias [F]`, `lora_a [D, R]`, `lora_b [R, F]`. `lora_b`
  starts at zero, so a fresh adapter changes nothing (LoRA, arXiv 2106.09685).
  """

  features: int
  use_bias: bool = True
  dtype: Dtype = jnp.float32
  lora_rank: int = 0
  lora_alpha: float = 16.0
  lora_dropout: float = 0.0
  kernel_init: Callable = nn.initializers.lecun_normal()

  @nn.compact
  def __call__(self, x, *, deterministic: bool = True):
    width = x.shape[-1]
    kernel = self.param("kernel", self.kernel_init, (width, self.features))
    x = x.astype(self.dtype)
    # Flattened to two axes: the weight gradient is then one plain matrix product.
    x_ND = x.reshape(-1, width)
    y_NF = product(self, x_ND, kernel, self.dtype).astype(self.dtype)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
      y_NF = y_NF + bias.astype(self.dtype)
    if self.lora_rank:
      y_NF = y_NF + self._lora(x_ND, deterministic=deterministic)
    return y_NF.reshape(*x.shape[:-1], self.features)

  def _lora(self, x_ND, *, deterministic):
    a_init = nn.initializers.he_uniform()
    shape_a, shape_b = (x_ND.shape[-1], self.lora_rank), (self.lora_rank, self.features)
    a_DR = self.param("lora_a", a_init, shape_a).astype(self.dtype)
    b_RF = self.param("lora_b", nn.initializers.zeros, shape_b).astype(self.dtype)
    x_ND = nn.Dropout(self.lora_dropout)(x_ND, deterministic=deterministic)
    return (x_ND @ a_DR) @ b_RF * (self.lora_alpha / self.lora_rank)


def product(module, x_ND, kernel_DF, dtype, out=None):
  """`x @ kernel` in `dtype`, the sums in `out`; times a module's scales if it has some.

  An int8 kernel is turned into `dtype` where it is used: it is read as int8.
  """
  scaled = module.has_variable("params", KERNEL_SCALE)
  out = jnp.float32 if scaled else out
  y_NF = jnp.matmul(x_ND, kernel_DF.astype(dtype), preferred_element_type=out)
  return y_NF * module.get_variable("params", KERNEL_SCALE) if scaled else y_NF


class LayerNorm(nn.Module):
  """Layer norm over the last axis, in float32. Parameters: `scale`, `bias`."""

  eps: float
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    var = jnp.square(x - mean).mean(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt(var + self.eps)
    return (x * scale + bias).astype(self.dtype)


class RmsNorm(nn.Module):
  """Root-mean-square norm over the last axis, in float32. Parameter: `scale`.

  `offset` is added to the stored scale, which then starts at `1 - offset`.
  """

  eps: float
  dtype: Dtype = jnp.float32
  offset: float = 0.0

  @nn.compact
  def __call__(self, x):
    start = nn.initializers.constant(1.0 - self.offset)
    scale = self.param("scale", start, (x.shape[-1],))
    if self.offset:
      scale = scale.astype(jnp.float32) + self.offset
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
    return (x * scale).astype(self.dtype)


class PatchConv(nn.Module):
  """Convolution of `patch` x `patch` cells that do not overlap, as one matrix product.

  Parameters: `kernel [P, P, C, D]` (height, width, in, out), `bias [D]`. Maps
  [B, H, W, C] to [B, H / P, W / P, D]. Raises ValueError when P does not divide H, W.
  """

  features: int
  patch: int
  use_bias: bool = True
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BHWC):
    (B, H, W, C), P = x_BHWC.shape, self.patch
    if H % P or W % P:
      raise ValueError(f"map {H}x{W} does not divide into patches of {P}")
    shape = (P, P, C, self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    x = x_BHWC.astype(self.dtype).reshape(B, H // P, P, W // P, P, C)
    x_ND = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, P * P * C)
    y_ND = x_ND @ kernel.reshape(-1, self.features).astype(self.dtype)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (self.features,))
      y_ND = y_ND + bias.astype(self.dtype)
    return y_ND.reshape(B, H // P, W // P, self.features)


def quick_gelu(x):
  """OpenAI CLIP's activation."""
  return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x):
  """GELU by the error function, PyTorch's default; jax's default is the tanh form.

  Computed in float32, as PyTorch does for every dtype.
  """
  return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def resize_bilinear(x_BHWC, height, width) -> jax.Array:
  """Half-pixel bilinear without antialias: `F.interpolate(align_corners=False)`."""
  shape = (x_BHWC.shape[0], height, width, x_BHWC.shape[-1])
  return jax.image.resize(x_BHWC, shape, method="bilinear", antialias=False)
