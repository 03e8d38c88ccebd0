"""SAM's image encoder: a ViT with windowed attention and relative positions.

Segment Anything, arXiv 2304.02643, after `modeling/image_encoder.py` of its release.

B images or windows, H W rows and columns of the patch grid (or of one window),
S = H * W keys, K J their rows and columns on the same grid, N heads, E head width,
D width, C channels, P patch side.
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from miras_jax.config.model import SamEncoderConfig
from miras_jax.models.blocks import run_blocks
from miras_jax.models.layers import (
  LayerNorm,
  Linear,
  PatchConv,
  exact_gelu,
  resize_bilinear,
)
from miras_jax.models.sam_attention import attend_grid


class SamEncoder(nn.Module):
  """Normalised image_BHWC -> features_BHWC on the patch grid, `out_width` channels.

  An image of another size than `cfg.image_size` works too: position embedding and
  relative positions are interpolated. `attention`: a form of `attend_grid`.
  """

  cfg: SamEncoderConfig
  dtype: Any = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, image_BHWC):
    cfg = self.cfg
    embed = PatchConv(cfg.width, cfg.patch_size, dtype=self.dtype, name="patch_embed")
    x_BHWD = embed(image_BHWC)
    shape = (1, cfg.grid, cfg.grid, cfg.width)
    pos_1HWD = self.param("pos_embed", nn.initializers.normal(0.02), shape)
    if x_BHWD.shape[1:] != shape[1:]:
      # differs from reference: which refuses images of another size.
      pos_1HWD = resize_bilinear(pos_1HWD, *x_BHWD.shape[1:3])
    x_BHWD = x_BHWD + pos_1HWD.astype(self.dtype)
    for window, run in itertools.groupby(range(cfg.depth), self._window):
      make = functools.partial(Block, cfg, window, self.dtype, self.attention)
      names = [f"block_{i:02d}" for i in run]
      x_BHWD = run_blocks(self, make, names, x_BHWD, scan=cfg.scan_blocks)
    return Neck(cfg, self.dtype, name="neck")(x_BHWD)

  def _window(self, block):
    return 0 if block in self.cfg.global_layers else self.cfg.window_size


class Block(nn.Module):
  """Pre-norm transformer block; `window` 0 attends over the whole grid."""

  cfg: SamEncoderConfig
  window: int
  dtype: Any = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, x_BHWD):
    cfg = self.cfg
    size = self.window or cfg.grid
    attn = Attention(cfg, size, self.dtype, self.attention, name="attn")
    y_BHWD = LayerNorm(cfg.norm_eps, self.dtype, name="norm1")(x_BHWD)
    if self.window:
      # As published, zeros are padded after the norm and take part as keys.
      windows = split_windows(y_BHWD, self.window)
      y_BHWD = join_windows(attn(windows), x_BHWD.shape)
    else:
      y_BHWD = attn(y_BHWD)
    x_BHWD = x_BHWD + y_BHWD
    y_BHWD = LayerNorm(cfg.norm_eps, self.dtype, name="norm2")(x_BHWD)
    return x_BHWD + Mlp(cfg, self.dtype, name="mlp")(y_BHWD)


class Mlp(nn.Module):
  """Linear, exact GELU, linear."""

  cfg: SamEncoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BHWD):
    cfg = self.cfg
    mlp_width = cfg.mlp_ratio * cfg.width
    x = exact_gelu(Linear(mlp_width, dtype=self.dtype, name="fc1")(x_BHWD))
    return Linear(cfg.width, dtype=self.dtype, name="fc2")(x)


class Attention(nn.Module):
  """Self-attention over an H x W grid with decomposed relative positions.

  Parameters beside the projections: `rel_pos_h`, `rel_pos_w`, `[2 * size - 1, E]`,
  where `size` is the side of the grid that the tables are made for.
  """

  cfg: SamEncoderConfig
  size: int
  dtype: Any = jnp.float32
  attention: str = "auto"

  @nn.compact
  def __call__(self, x_BHWD):
    B, H, W, D = x_BHWD.shape
    N = self.cfg.num_heads
    E = D // N
    qkv = Linear(3 * D, dtype=self.dtype, name="qkv")(x_BHWD)
    q_BNSE, k_BNSE, v_BNSE = qkv.reshape(B, H * W, 3, N, E).transpose(2, 0, 3, 1, 4)
    shape = (2 * self.size - 1, E)
    table_h = self.param("rel_pos_h", nn.initializers.zeros, shape)
    table_w = self.param("rel_pos_w", nn.initializers.zeros, shape)
    out_BNHWE = attend_grid(
      q_BNSE.reshape(B, N, H, W, E),
      k_BNSE,
      v_BNSE,
      relative_positions(table_h, H).astype(self.dtype),
      relative_positions(table_w, W).astype(self.dtype),
      self.attention,
    )
    out_BHWD = out_BNHWE.transpose(0, 2, 3, 1, 4).reshape(B, H, W, D)
    return Linear(D, dtype=self.dtype, name="proj")(out_BHWD)


class Neck(nn.Module):
  """1x1 and 3x3 convolutions without bias, each followed by a channel norm."""

  cfg: SamEncoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BHWD):
    cfg = self.cfg

    def conv(name, size, x):
      kernel_size = (size, size)
      layer = nn.Conv(
        cfg.out_width, kernel_size, use_bias=False, dtype=self.dtype, name=name
      )
      return layer(x)

    x = conv("conv1", 1, x_BHWD)
    x = LayerNorm(cfg.neck_norm_eps, self.dtype, name="norm1")(x)
    x = conv("conv2", 3, x)
    return LayerNorm(cfg.neck_norm_eps, self.dtype, name="norm2")(x)


def relative_positions(table, size):
  """table [2 * L - 1, E] -> [size, size, E]: entry (q, k) is row q - k + size - 1.

  A table made for another size is interpolated linearly, as published. Written as a
  Toeplitz matrix by tiling and reshaping, so that no gather (and no scatter in the
  backward pass) is needed: row q of the tiled table starts one entry later.
  """
  length = 2 * size - 1
  if table.shape[0] != length:
    table = resize_bilinear(table[None, :, None], length, 1)[0, :, 0]
  period = jnp.pad(table[::-1], ((0, 1), (0, 0)))
  tiled = jnp.tile(period, (size, 1))[: size * length]
  return tiled.reshape(size, length, -1)[:, size - 1 :]


def split_windows(x_BHWD, window):
  """[B, H, W, D] -> [B * windows, window, window, D], zero padded right and bottom."""
  B, H, W, D = x_BHWD.shape
  pad_h, pad_w = -H % window, -W % window
  x = jnp.pad(x_BHWD, ((0, 0), (0, pad_h), (0, pad_w), (0, 0)))
  rows, columns = (H + pad_h) // window, (W + pad_w) // window
  x = x.reshape(B, rows, window, columns, window, D).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(-1, window, window, D)


def join_windows(windows, shape):
  """Undoes `split_windows`; `shape` is that of the map before it."""
  B, H, W, D = shape
  window = windows.shape[1]
  rows, columns = -(-H // window), -(-W // window)
  x = windows.reshape(B, rows, columns, window, window, D).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(B, rows * window, columns * window, D)[:, :H, :W]
