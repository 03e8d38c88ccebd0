"""SAM's mask decoder: image features and prompts -> mask logits and predicted IoU.

Segment Anything, arXiv 2304.02643, `modeling/mask_decoder.py` and `transformer.py`.

B images, M prompts (masks wanted) an image, K masks answered for one prompt, P sparse
prompts and T tokens (IoU, mask and presence tokens, prompts) of one, H W feature rows
and columns, S = H * W cells, N heads, E head width, C channels, h w sides of a
low-resolution mask. What the M prompts of an image share keeps an M axis of 1 until it
must differ.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from miras_jax.config.model import SamDecoderConfig
from miras_jax.models.fine_features import split
from miras_jax.models.layers import LayerNorm, Linear, exact_gelu
from miras_jax.models.sam_prompt import PromptEncoder

__all__ = ["Decoded", "MaskDecoder", "PromptEncoder", "postprocess"]
ABSENT = -1024.0  # logit of every pixel where what is meant is not there


class Decoded(NamedTuple):
  """What is made of M prompts: float32 logits [B, M, ..., h, w], predicted IoU
  [B, M, ...] and, of a decoder with `cfg.presence`, the logit of whether what is meant
  is in the image at all, [B, M], else None."""

  logits: jax.Array
  iou: jax.Array
  present_BM: jax.Array | None = None

  def shown(self):
    """(logits, IoU), without a pixel where nothing is there."""
    if self.present_BM is None:
      return self.logits, self.iou
    more = self.logits.ndim - self.present_BM.ndim
    there = (self.present_BM > 0).reshape(*self.present_BM.shape, *[1] * more)
    return jnp.where(there, self.logits, ABSENT), self.iou


class MaskDecoder(nn.Module):
  """Decodes M prompts an image: Decoded(logits_BMKhw, iou_BMK, ...), h = 4 H.

  features_BHWC: image features, of `cfg.width` channels or with those of
  `fine_features.FineFeatures` behind them. dense_pe_1HWC, sparse_BMPC, dense_BMHWC:
  what `PromptEncoder` gives; axes of size 1 are broadcast. `multimask` answers with
  `num_multimask` masks, else with one. Mask logits are float32.

  `cfg.presence`: one more token, as the object score of SAM 2 (arXiv 2408.00714,
  appendix D.1). It changes every mask, so published weights have none.
  """

  cfg: SamDecoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, features_BHWC, dense_pe_1HWC, sparse_BMPC, dense_BMHWC, *, multimask=False
  ):
    cfg, dtype = self.cfg, self.dtype
    features_BHWC, finer = split(features_BHWC, cfg.width)
    B, H, W, C = features_BHWC.shape
    M = max(sparse_BMPC.shape[1], dense_BMHWC.shape[1])
    tokens_BMTC = self._tokens(B, M, sparse_BMPC)
    image_BMHWC = (features_BHWC[:, None] + dense_BMHWC).astype(dtype)
    image_BMSC = image_BMHWC.reshape(B, -1, H * W, C)
    pe_11SC = dense_pe_1HWC.reshape(1, 1, H * W, C).astype(dtype)

    transformer = TwoWayTransformer(cfg, dtype, name="transformer")
    tokens_BMTC, image_BMSC = transformer(tokens_BMTC, image_BMSC, pe_11SC)
    upscaling = Upscaling(cfg, dtype, name="output_upscaling")
    upscaled_BMhwC = upscaling(image_BMSC.reshape(B, M, H, W, C), finer)

    wanted = range(1, cfg.num_multimask + 1) if multimask else range(1)
    weights_BMKC = self._hypernetworks(tokens_BMTC, wanted)
    logits_BMKhw = jnp.einsum(
      "BMKC,BMhwC->BMKhw",
      weights_BMKC,
      upscaled_BMhwC,
      preferred_element_type=jnp.float32,
    )
    widths = (cfg.iou_width,) * (cfg.iou_depth - 1) + (cfg.num_multimask + 1,)
    iou_BMK = ReluMlp(widths, dtype, name="iou_prediction_head")(tokens_BMTC[:, :, 0])
    iou_BMK = iou_BMK[..., wanted.start : wanted.stop].astype(jnp.float32)
    return Decoded(logits_BMKhw, iou_BMK, self._present(tokens_BMTC))

  def _present(self, tokens_BMTC):
    cfg = self.cfg
    if not cfg.presence:
      return None
    head = ReluMlp((cfg.width, cfg.width, 1), self.dtype, name="presence_head")
    own = tokens_BMTC[:, :, cfg.num_multimask + 2]  # after IoU and mask tokens
    return head(own)[..., 0].astype(jnp.float32)

  def _tokens(self, B, M, sparse_BMPC):
    """The decoder's own tokens and the prompts of every mask: tokens_BMTC."""
    init, width = nn.initializers.normal(1.0), self.cfg.width
    iou_token = self.param("iou_token", init, (1, width))
    mask_tokens = self.param("mask_tokens", init, (self.cfg.num_multimask + 1, width))
    own = [iou_token, mask_tokens]
    if self.cfg.presence:
      own.append(self.param("presence_token", init, (1, width)))
    own_TC = jnp.concatenate(own).astype(self.dtype)
    own_BMTC = jnp.broadcast_to(own_TC, (B, M, *own_TC.shape))
    shape = (B, M, *sparse_BMPC.shape[2:])
    sparse_BMPC = jnp.broadcast_to(sparse_BMPC.astype(self.dtype), shape)
    return jnp.concatenate([own_BMTC, sparse_BMPC], axis=2)

  def _hypernetworks(self, tokens_BMTC, wanted):
    """Channel weights of the wanted masks, weights_BMKC; the others are not run."""
    cfg = self.cfg
    widths = (cfg.width, cfg.width, cfg.width // 8)
    weights = {}
    for i in range(cfg.num_multimask + 1):
      if i in wanted or self.is_initializing():
        mlp = ReluMlp(widths, self.dtype, name=f"output_hypernetworks_{i}")
        weights[i] = mlp(tokens_BMTC[:, :, 1 + i])
    return jnp.stack([weights[i] for i in wanted], axis=2)


class TwoWayTransformer(nn.Module):
  """Tokens and image attend to each other: returns (tokens_BMTC, image_BMSC)."""

  cfg: SamDecoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens_BMTC, image_BMSC, pe_11SC):
    cfg, dtype = self.cfg, self.dtype
    # The first tokens are their own position code, as published.
    token_pe, x = tokens_BMTC, tokens_BMTC
    for i in range(cfg.depth):
      layer = TwoWayLayer(cfg, i == 0, dtype, name=f"layer_{i:02d}")
      x, image_BMSC = layer(x, image_BMSC, token_pe, pe_11SC)
    name = "final_attn_token_to_image"
    cross = Attention(cfg, cfg.attention_downsample, dtype, name=name)
    x = x + cross(x + token_pe, image_BMSC + pe_11SC, image_BMSC)
    return LayerNorm(cfg.norm_eps, dtype, name="norm_final_attn")(x), image_BMSC


class TwoWayLayer(nn.Module):
  """Self-attention of the tokens, tokens to image, MLP, image to tokens; post-norm.

  The first layer's self-attention has neither position code nor residual, as published.
  """

  cfg: SamDecoderConfig
  first: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BMTC, image_BMSC, token_pe, pe_11SC):
    cfg, dtype = self.cfg, self.dtype
    down = cfg.attention_downsample

    def norm(name, y):
      return LayerNorm(cfg.norm_eps, dtype, name=name)(y)

    attn = Attention(cfg, 1, dtype, name="self_attn")
    if self.first:
      x_BMTC = attn(x_BMTC, x_BMTC, x_BMTC)
    else:
      x_BMTC = x_BMTC + attn(x_BMTC + token_pe, x_BMTC + token_pe, x_BMTC)
    x_BMTC = norm("norm1", x_BMTC)

    attn = Attention(cfg, down, dtype, name="cross_attn_token_to_image")
    x_BMTC = x_BMTC + attn(x_BMTC + token_pe, image_BMSC + pe_11SC, image_BMSC)
    x_BMTC = norm("norm2", x_BMTC)
    x_BMTC = norm("norm3", x_BMTC + DecoderMlp(cfg, dtype, name="mlp")(x_BMTC))

    attn = Attention(cfg, down, dtype, name="cross_attn_image_to_token")
    image_BMSC = image_BMSC + attn(image_BMSC + pe_11SC, x_BMTC + token_pe, x_BMTC)
    return x_BMTC, norm("norm4", image_BMSC)


class DecoderMlp(nn.Module):
  """Linear, ReLU, linear."""

  cfg: SamDecoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    x = nn.relu(Linear(self.cfg.mlp_width, dtype=self.dtype, name="fc1")(x))
    return Linear(self.cfg.width, dtype=self.dtype, name="fc2")(x)


class Attention(nn.Module):
  """Attention of q on k, v at 1 / `downsample` of the width; M axes of 1 broadcast.

  An M axis of 1 is contracted as it is: the projected image is never copied per mask.
  """

  cfg: SamDecoderConfig
  downsample: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, q_BMTC, k_BMSC, v_BMSC):
    cfg = self.cfg
    inner = cfg.width // self.downsample

    def heads(name, x):
      x = Linear(inner, dtype=self.dtype, name=name)(x)
      return x.reshape(*x.shape[:3], cfg.num_heads, -1)

    q_BMTNE = heads("q_proj", q_BMTC)
    k_BMSNE = heads("k_proj", k_BMSC)
    v_BMSNE = heads("v_proj", v_BMSC)
    logits = jnp.einsum(
      "BMTNE,BMSNE->BMNTS", q_BMTNE, k_BMSNE, preferred_element_type=jnp.float32
    )
    weights_BMNTS = jax.nn.softmax(logits * q_BMTNE.shape[-1] ** -0.5)
    out = jnp.einsum("BMNTS,BMSNE->BMTNE", weights_BMNTS.astype(self.dtype), v_BMSNE)
    out = out.reshape(*out.shape[:3], inner)
    return Linear(cfg.width, dtype=self.dtype, name="out_proj")(out)


class Upscaling(nn.Module):
  """[B, M, H, W, C] -> [B, M, 4H, 4W, C / 8] by two 2x2 transposed convolutions.

  finer: features of an image that are added at twice and four times the grid, or {}.
  """

  cfg: SamDecoderConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, finer):
    cfg, dtype = self.cfg, self.dtype
    finer = {factor: y[:, None].astype(dtype) for factor, y in finer.items()}
    x = PatchDeconv(cfg.width // 4, dtype, name="conv1")(x)
    x = x + finer[2] if finer else x
    x = exact_gelu(LayerNorm(cfg.upscale_norm_eps, dtype, name="norm")(x))
    x = PatchDeconv(cfg.width // 8, dtype, name="conv2")(x)
    return exact_gelu(x + finer[4] if finer else x)


class PatchDeconv(nn.Module):
  """2x2 transposed convolution of stride 2, as one matrix product.

  Output (2 i + a, 2 j + b) is input (i, j) times `kernel[a, b]`. Parameters:
  `kernel [2, 2, C, features]`, `bias [features]`.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x_BMHWC):
    B, M, H, W, C = x_BMHWC.shape
    init = nn.initializers.lecun_normal(batch_axis=(0, 1))
    kernel = self.param("kernel", init, (2, 2, C, self.features)).astype(self.dtype)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    kernel = kernel.transpose(2, 0, 1, 3).reshape(C, -1)
    y = x_BMHWC.astype(self.dtype).reshape(-1, C) @ kernel
    y = y.reshape(B, M, H, W, 2, 2, self.features).transpose(0, 1, 2, 4, 3, 5, 6)
    y = y.reshape(B, M, 2 * H, 2 * W, self.features)
    return y + bias.astype(self.dtype)


class ReluMlp(nn.Module):
  """Linear layers `layers_0`, `layers_1`, ... with ReLU between them."""

  widths: tuple[int, ...]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    for i, width in enumerate(self.widths):
      x = Linear(width, dtype=self.dtype, name=f"layers_{i}")(nn.relu(x) if i else x)
    return x


def postprocess(low_res_logits, valid_hw, original_hw, image_size) -> np.ndarray:
  """Mask logits of one image at its original size, on the host.

  low_res_logits: [..., h, w] on the whole padded square. valid_hw: rows and columns of
  that square (side `image_size`) which hold the image. original_hw: size of the image.
  Returns float32 [..., height, width].

  As published: upsample to `image_size`, crop to the valid region, resize to the
  original, both bilinear. Each step is linear and acts on rows and columns alone, so
  all three are one small matrix a side and the large square never exists. Plain numpy:
  every image has its own size and would be its own XLA program.
  """
  low_res = np.asarray(low_res_logits, np.float32)
  rows, columns = (
    _postprocess_matrix(low, int(valid), int(original), int(image_size))
    for low, valid, original in zip(
      low_res.shape[-2:], valid_hw, original_hw, strict=True
    )
  )
  return rows @ low_res @ columns.T


@functools.lru_cache(maxsize=256)
def _postprocess_matrix(low, valid, original, image_size):
  if not 0 < valid <= image_size:
    raise ValueError(f"{valid=} rows or columns of a square of {image_size=}")
  upsample = bilinear_matrix(low, image_size)[:valid]
  return (bilinear_matrix(valid, original) @ upsample).astype(np.float32)


def bilinear_matrix(source, target) -> np.ndarray:
  """[target, source] float64: half-pixel bilinear resize of one axis, no antialias."""
  centre = (np.arange(target) + 0.5) * source / target - 0.5
  centre = np.clip(centre, 0, source - 1)
  low = np.floor(centre).astype(int)
  high = np.minimum(low + 1, source - 1)
  matrix = np.zeros((target, source))
  np.add.at(matrix, (np.arange(target), low), 1 - (centre - low))
  np.add.at(matrix, (np.arange(target), high), centre - low)
  return matrix
