"""SAM as one module: image encoder, prompt encoder and mask decoder under `sam/`.

B images, M prompts an image, H W feature rows and columns, C width, h w low-resolution
mask sides (four times the feature grid), E earlier masks.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from miras_jax.config.model import SamDecoderConfig, SamEncoderConfig
from miras_jax.models.fine_features import FineFeatures
from miras_jax.models.sam_decoder import MaskDecoder
from miras_jax.models.sam_encoder import SamEncoder
from miras_jax.models.sam_prompt import PromptEncoder


class Sam(nn.Module):
  """Parameters: `encoder`, `prompt_encoder`, `decoder`, and `fine` if the config says
  so."""

  encoder_cfg: SamEncoderConfig
  decoder_cfg: SamDecoderConfig
  dtype: Any = jnp.float32
  attention: str = "auto"  # a form of sam_attention.attend_grid

  def setup(self):
    cfg = self.encoder_cfg
    self.encoder = SamEncoder(cfg, self.dtype, self.attention)
    if cfg.fine:
      self.fine = FineFeatures(cfg, self.dtype)
    self.prompt_encoder = PromptEncoder(
      self.decoder_cfg, cfg.grid, cfg.image_size, self.dtype
    )
    # In float32 whatever the rest runs in: a logit is a small difference of large
    # terms, which bfloat16 rounds two to three times as far off, and the decoder is a
    # thousandth of a step's arithmetic.
    self.decoder = MaskDecoder(self.decoder_cfg)

  def encode(self, image_BHWC):
    """Normalised, zero-padded images -> features [B, H, W, C]: the encoder's and,
    behind them, those of `FineFeatures`, if there are any."""
    features_BHWC = self.encoder(image_BHWC)
    if not self.encoder_cfg.fine:
      return features_BHWC
    return jnp.concatenate([features_BHWC, self.fine(image_BHWC)], axis=-1)

  def decode(self, features_BHWC, prompts, *, multimask=False, earlier=None):
    """`prompts`: arguments of PromptEncoder. earlier: (masks, weights, seen) as
    `PromptEncoder.towards` takes them. Returns (logits_BMKhw, iou_BMK)."""
    sparse_BMPC, dense_BMHWC = self.prompt_encoder(**prompts)
    if earlier is not None:
      dense_BMHWC = self.prompt_encoder.towards(dense_BMHWC, *earlier)
    dense_pe_1HWC = self.prompt_encoder.dense_pe()
    return self.decoder(
      features_BHWC, dense_pe_1HWC, sparse_BMPC, dense_BMHWC, multimask=multimask
    )

  def masks_from_text(self, features_BHWC, prompt_BMC, hints=None, earlier=None):
    """One mask a prompt embedding: (logits [B, M, h, w], predicted IoU [B, M]).

    earlier: see `decode`.

    hints: further arguments of PromptEncoder (points, boxes, masks) with an M of 1, for
    all masks of an image; masks of the canvas' size, a multiple of the encoder's.
    """
    prompts = {"text": prompt_BMC[:, :, None]}
    hints = dict(hints or {})
    if "masks" in hints:
      hints["masks"] = _block_means(hints["masks"], 4 * self.encoder_cfg.grid)
    for name, hint in hints.items():
      prompts[name] = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (*prompt_BMC.shape[:2], *x.shape[2:])), hint
      )
    logits_BMKhw, iou_BMK = self.decode(features_BHWC, prompts, earlier=earlier)
    return logits_BMKhw[:, :, 0], iou_BMK[:, :, 0]


def _block_means(x_BMHW, side):
  """Means over blocks of pixels, so that `side` of them are a side."""
  B, M, H, W = x_BMHW.shape
  blocks = x_BMHW.reshape(B, M, side, H // side, side, W // side)
  return blocks.mean((3, 5))
