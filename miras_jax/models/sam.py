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
from miras_jax.models.sam_decoder import Decoded, MaskDecoder
from miras_jax.models.sam_encoder import SamEncoder
from miras_jax.models.sam_prompt import FOREGROUND, PromptEncoder


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
    `PromptEncoder.towards` takes them. Returns Decoded(logits_BMKhw, iou_BMK, ...)."""
    sparse_BMPC, dense_BMHWC = self.prompt_encoder(**prompts)
    if earlier is not None:
      dense_BMHWC = self.prompt_encoder.towards(dense_BMHWC, *earlier)
    return self._decode(features_BHWC, sparse_BMPC, dense_BMHWC, multimask)

  def _decode(self, features_BHWC, sparse_BMPC, dense_BMHWC, multimask=False):
    dense_pe_1HWC = self.prompt_encoder.dense_pe()
    return self.decoder(
      features_BHWC, dense_pe_1HWC, sparse_BMPC, dense_BMHWC, multimask=multimask
    )

  def masks_from_text(self, features_BHWC, prompt_BMC, hints=None, earlier=None):
    """One mask a prompt embedding: Decoded(logits [B, M, h, w], IoU [B, M], ...).

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
    found = self.decode(features_BHWC, prompts, earlier=earlier)
    return Decoded(found.logits[:, :, 0], found.iou[:, :, 0], found.present_BM)

  def masks_from_places(self, features_BHWC, points_BM2, boxes_BM4, boxed_BM):
    """One mask a place, as `masks_from_text`: a box where `boxed`, else a point inside.

    Both in pixels of SAM's canvas: (x, y), and x0 y0 x1 y1.
    """
    labels_BM1 = jnp.full((*points_BM2.shape[:2], 1), FOREGROUND)
    # Two tokens each: a point and the padding of a missing box, or two corners.
    points_BM2C, dense = self.prompt_encoder((points_BM2[:, :, None], labels_BM1))
    boxes_BM2C, _ = self.prompt_encoder(boxes=boxes_BM4)
    sparse_BM2C = jnp.where(boxed_BM[..., None, None], boxes_BM2C, points_BM2C)
    found = self._decode(features_BHWC, sparse_BM2C, dense)
    return Decoded(found.logits[:, :, 0], found.iou[:, :, 0], found.present_BM)


def _block_means(x_BMHW, side):
  """Means over blocks of pixels, so that `side` of them are a side."""
  B, M, H, W = x_BMHW.shape
  blocks = x_BMHW.reshape(B, M, side, H // side, side, W // side)
  return blocks.mean((3, 5))
