"""SAM's prompt encoder: points, boxes, masks and text -> prompt embeddings.

Segment Anything, arXiv 2304.02643, `modeling/prompt_encoder.py`; the text path is that
of LISA, arXiv 2308.00692: an embedding already C wide is one more sparse prompt.

B images, M prompts (masks wanted) an image, P points or tokens of one prompt, C width,
H W rows and columns. Coordinates are (x, y) in pixels of the padded SAM input.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from miras_jax.config.model import SamDecoderConfig
from miras_jax.models.layers import LayerNorm, PatchConv, exact_gelu

KNOWN = 20.0  # logit of a pixel that is known to be inside
# Rows of point labels, as published.
PADDING, BACKGROUND, FOREGROUND = -1, 0, 1


class PromptEncoder(nn.Module):
  """Prompts -> (sparse_BMPC, dense_BMHWC).

  points: (coords_BMP2, labels_BMP), labels 1 foreground, 0 background, -1 padding.
  boxes: boxes_BM4, x0 y0 x1 y1. masks: logits_BMHW, four times the grid a side.
  text: text_BMPC. Each may be None. Sparse order: points, their padding point (only
  without boxes), box corners, text. Without masks `dense` is [1, 1, 1, 1, C], constant
  over images, prompts and space; without any sparse prompt `sparse` has P = 0.
  """

  cfg: SamDecoderConfig
  grid: int
  image_size: int
  dtype: Any = jnp.float32

  def setup(self):
    embedding, shape = nn.initializers.normal(1.0), (1, self.cfg.width)
    self.pe = PositionCode(self.cfg.width)
    self.point_embeddings_0 = self.param("point_embeddings_0", embedding, shape)
    self.point_embeddings_1 = self.param("point_embeddings_1", embedding, shape)
    self.point_embeddings_2 = self.param("point_embeddings_2", embedding, shape)
    self.point_embeddings_3 = self.param("point_embeddings_3", embedding, shape)
    self.not_a_point_embed = self.param("not_a_point_embed", embedding, shape)
    self.no_mask_embed = self.param("no_mask_embed", embedding, shape)
    self.mask_downscaling = MaskDownscaling(self.cfg, self.dtype)

  def __call__(self, points=None, boxes=None, masks=None, text=None):
    if self.is_initializing():  # every parameter exists whatever the first prompt is
      self.dense_pe()
      self.mask_downscaling(jnp.zeros((1, 4 * self.grid, 4 * self.grid, 1)))
    sparse = []
    if points is not None:
      sparse.append(self._points(*points, pad=boxes is None))
    if boxes is not None:
      sparse.append(self._boxes(boxes))
    if text is not None:
      sparse.append(text)
    if not sparse:
      B, M = (1, 1) if masks is None else masks.shape[:2]
      sparse.append(jnp.zeros((B, M, 0, self.cfg.width)))
    sparse_BMPC = jnp.concatenate([s.astype(self.dtype) for s in sparse], axis=2)
    return sparse_BMPC, self._dense(masks)

  def dense_pe(self):
    """Position code of every cell of the feature map, pe_1HWC in float32."""
    centres = (jnp.arange(self.grid, dtype=jnp.float32) + 0.5) / self.grid
    xy_HW2 = jnp.stack(jnp.meshgrid(centres, centres, indexing="xy"), axis=-1)
    return self.pe(xy_HW2)[None]

  def towards(self, dense_BMHWC, masks_BEhw, weights_BMEC, seen_BM):
    """A dense prompt moved towards those of E earlier masks of the image.

    masks_BEhw: 0 to 1 inside, four times the grid a side. weights_BMEC: how far, for
    each channel. seen_BM: bool, where not the prompt stays as it is.
    """
    B, E, H, W = masks_BEhw.shape
    logits = KNOWN * (2 * masks_BEhw - 1)
    earlier = self.mask_downscaling(logits.reshape(B * E, H, W, 1))
    earlier_BEHWC = earlier.reshape(B, E, *earlier.shape[1:])
    no_mask = self.no_mask_embed.reshape(-1).astype(earlier.dtype)
    moved_BMHWC = jnp.einsum(
      "BMEC,BEHWC->BMHWC", weights_BMEC.astype(earlier.dtype), earlier_BEHWC - no_mask
    )
    return jnp.where(
      seen_BM[..., None, None, None], dense_BMHWC + moved_BMHWC, dense_BMHWC
    )

  def _points(self, coords_BMP2, labels_BMP, *, pad):
    if pad:  # published: one padding point stands for the missing box
      coords_BMP2 = jnp.pad(coords_BMP2, ((0, 0), (0, 0), (0, 1), (0, 0)))
      edges = ((0, 0), (0, 0), (0, 1))
      labels_BMP = jnp.pad(labels_BMP, edges, constant_values=PADDING)
    code_BMPC = self._pixel_code(coords_BMP2)
    label = labels_BMP[..., None]
    code_BMPC = jnp.where(label == PADDING, self.not_a_point_embed, code_BMPC)
    code_BMPC += jnp.where(label == BACKGROUND, self.point_embeddings_0, 0)
    return code_BMPC + jnp.where(label == FOREGROUND, self.point_embeddings_1, 0)

  def _boxes(self, boxes_BM4):
    corners_BM22 = boxes_BM4.reshape(*boxes_BM4.shape[:2], 2, 2)
    kinds_2C = jnp.concatenate([self.point_embeddings_2, self.point_embeddings_3])
    return self._pixel_code(corners_BM22) + kinds_2C

  def _pixel_code(self, coords_BMP2):
    # Half a pixel to its centre; the SAM input is square.
    return self.pe((coords_BMP2.astype(jnp.float32) + 0.5) / self.image_size)

  def _dense(self, masks_BMHW):
    side = 4 * self.grid
    if masks_BMHW is None:
      return self.no_mask_embed.reshape(1, 1, 1, 1, -1).astype(self.dtype)
    B, M, H, W = masks_BMHW.shape
    if (H, W) != (side, side):
      raise ValueError(f"mask prompts are {H}x{W}, want {side}x{side}")
    dense = self.mask_downscaling(masks_BMHW.reshape(B * M, H, W, 1))
    return dense.reshape(B, M, self.grid, self.grid, self.cfg.width)


class PositionCode(nn.Module):
  """Random Fourier features of (x, y) in [0, 1]: xy [..., 2] -> code [..., width].

  Parameter: `gaussian [2, width / 2]`, drawn once and never trained: a buffer of the
  original, kept with the parameters because it is part of a published checkpoint.
  """

  width: int

  @nn.compact
  def __call__(self, xy):
    init, shape = nn.initializers.normal(1.0), (2, self.width // 2)
    gaussian = jax.lax.stop_gradient(self.param("gaussian", init, shape))
    gaussian = gaussian.astype(jnp.float32)
    xy = 2 * xy - 1
    # Not a matrix product: accelerators would round it to bfloat16, and the sine of
    # a large angle keeps none of that.
    angle = 2 * math.pi * (xy[..., :1] * gaussian[0] + xy[..., 1:] * gaussian[1])
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class MaskDownscaling(nn.Module):
  """Mask logits [B, 4H, 4W, 1] -> [B, H, W, C]."""

  cfg: SamDecoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    cfg, dtype = self.cfg, self.dtype
    eps = cfg.upscale_norm_eps
    x = PatchConv(cfg.mask_channels // 4, 2, dtype=dtype, name="conv1")(x)
    x = exact_gelu(LayerNorm(eps, dtype, name="norm1")(x))
    x = PatchConv(cfg.mask_channels, 2, dtype=dtype, name="conv2")(x)
    x = exact_gelu(LayerNorm(eps, dtype, name="norm2")(x))
    return PatchConv(cfg.width, 1, dtype=dtype, name="conv3")(x)
