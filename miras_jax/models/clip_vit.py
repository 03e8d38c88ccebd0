"""CLIP ViT tower: an image becomes N low-resolution tokens (arXiv 2103.00020).

B batch, H W image height and width, C channels, N patches, T = N + 1 with the class
token, D width, F mlp width.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from miras_jax.config.model import ClipConfig
from miras_jax.models.attention import attend
from miras_jax.models.blocks import run_blocks
from miras_jax.models.layers import (
  LayerNorm,
  Linear,
  PatchConv,
  exact_gelu,
  quick_gelu,
)

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu}


class Attention(nn.Module):
  """Full self-attention. Parameters: `{q,k,v,out}_proj`."""

  cfg: ClipConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD):
    B, T, D = x_BTD.shape
    num_heads = self.cfg.num_heads

    def heads(name):
      y_BTD = Linear(D, dtype=self.dtype, name=name)(x_BTD)
      return y_BTD.reshape(B, T, num_heads, D // num_heads)

    out_BTNH = attend(heads("q_proj"), heads("k_proj"), heads("v_proj"))
    return Linear(D, dtype=self.dtype, name="out_proj")(out_BTNH.reshape(B, T, D))


class Mlp(nn.Module):
  cfg: ClipConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD):
    h_BTF = Linear(self.cfg.mlp_width, dtype=self.dtype, name="fc1")(x_BTD)
    h_BTF = ACTIVATIONS[self.cfg.activation](h_BTF)
    return Linear(self.cfg.width, dtype=self.dtype, name="fc2")(h_BTF)


class Block(nn.Module):
  """Pre-norm transformer block."""

  cfg: ClipConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BTD):
    cfg, dtype = self.cfg, self.dtype
    h_BTD = LayerNorm(cfg.norm_eps, dtype, name="norm1")(x_BTD)
    x_BTD = x_BTD + Attention(cfg, dtype, name="attn")(h_BTD)
    h_BTD = LayerNorm(cfg.norm_eps, dtype, name="norm2")(x_BTD)
    return x_BTD + Mlp(cfg, dtype, name="mlp")(h_BTD)


class ClipVit(nn.Module):
  """Normalised image [B, H, W, 3] -> patch tokens [B, N, D] of `cfg.select_layer`.

  The class token is dropped. Blocks past the selected layer and `post_norm` exist as
  parameters, so that published weights survive a round trip, but never run.
  """

  cfg: ClipConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image_BHWC):
    cfg, dtype = self.cfg, self.dtype
    x_BTD = self._embed(image_BHWC)
    x_BTD = LayerNorm(cfg.norm_eps, dtype, name="pre_norm")(x_BTD)
    num_blocks = selected_depth(cfg)
    make = functools.partial(Block, cfg, dtype)
    names = [f"layer_{i:02d}" for i in range(num_blocks)]
    half = cfg.depth // 2  # where `trainable=...+clip_top_half` begins
    for run in (names[:half], names[half:]):
      x_BTD = run_blocks(self, make, run, x_BTD, scan=cfg.scan_blocks)
    if self.is_initializing():
      for i in range(num_blocks, cfg.depth):
        Block(cfg, dtype, name=f"layer_{i:02d}")(x_BTD)
      LayerNorm(cfg.norm_eps, dtype, name="post_norm")(x_BTD)
    return x_BTD[:, 1:]

  def _embed(self, image_BHWC):
    """Class token and patches, row by row, plus their position embedding."""
    cfg = self.cfg
    if image_BHWC.shape[1:3] != (cfg.image_size, cfg.image_size):
      raise ValueError(f"{image_BHWC.shape=} is not the CLIP size {cfg.image_size}")
    x_BHWD = PatchConv(
      cfg.width, cfg.patch_size, use_bias=False, dtype=self.dtype, name="patch_embed"
    )(image_BHWC)
    init = nn.initializers.normal(cfg.width**-0.5)
    class_D = self.param("class_embed", init, (cfg.width,))
    pos_TD = self.param("pos_embed", init, (cfg.num_tokens + 1, cfg.width))
    x_BND = x_BHWD.reshape(x_BHWD.shape[0], -1, cfg.width)
    class_B1D = jnp.broadcast_to(class_D, (x_BND.shape[0], 1, cfg.width))
    x_BTD = jnp.concatenate([class_B1D.astype(self.dtype), x_BND], axis=1)
    return x_BTD + pos_TD.astype(self.dtype)


def selected_depth(cfg):
  """Number of blocks before the selected hidden state (0 is after `pre_norm`)."""
  layer = cfg.select_layer
  depth = layer if layer >= 0 else cfg.depth + 1 + layer
  return depth
