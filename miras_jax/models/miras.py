"""The wiring: encoders -> image tokens -> decoder -> [SEG] prompts -> masks.

B batch, T tokens, N image tokens, D decoder width, M masks, H W image rows and columns,
C SAM width. The batch contract is `input_pipeline.batch_table`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline import batch_table
from miras_jax.config.model import MirasConfig
from miras_jax.models.attention import segment_mask
from miras_jax.models.clip_vit import ClipVit
from miras_jax.models.convnext import ConvNext
from miras_jax.models.fusion import PatchMining, Projector
from miras_jax.models.layers import resize_bilinear
from miras_jax.models.llama import Llama
from miras_jax.models.sam import Sam
from miras_jax.models.sam_grid import on_grid
from miras_jax.models.seg_prompt import SegPrompt
from miras_jax.parallel import sharding

# Published pixel statistics, 0..255. CLIP: OpenAI's; SAM: ImageNet's, rounded.
CLIP_MEAN = (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255)
CLIP_STD = (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255)
SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)


def normalise(image_BHWC, mean, std):
  """uint8 pixels to float32 with zero mean and unit deviation per channel."""
  return (image_BHWC.astype(jnp.float32) - jnp.array(mean)) / jnp.array(std)


def zero_padding(image_BHWC, valid_hw_B2):
  """Zeros beyond the valid rows and columns: SAM pads after it normalises."""
  rows_H, cols_W = (jnp.arange(n) for n in image_BHWC.shape[1:3])
  inside_BHW = (rows_H[:, None] < valid_hw_B2[:, 0, None, None]) & (
    cols_W[None, :] < valid_hw_B2[:, 1, None, None]
  )
  return jnp.where(inside_BHW[..., None], image_BHWC, 0.0)


class Miras(nn.Module):
  """The whole model over a Batch.

  Parameters: `clip`, `convnext`, `mining`, `projector`, `llm`, `seg_prompt`, `sam`.
  `cfg.encoder` says which of the first three there are. A "dual" one without
  `cfg.convnext` has the projected CLIP tokens as image tokens (as LISA).
  `view`: of the data, how the picture lies in `image_aux`.
  """

  cfg: MirasConfig
  dtype: Any = jnp.float32
  view: str = "letterbox"

  def setup(self):
    cfg, dtype = self.cfg, self.dtype
    if cfg.encoder != "sam_only":
      self.clip = ClipVit(cfg.clip, dtype)
    if cfg.convnext:
      self.convnext = ConvNext(cfg.convnext, dtype)
    if cfg.mined_grid:
      self.mining = PatchMining(cfg.clip.width, cfg.clip.grid, dtype)
    self.projector = Projector(cfg.llama.width, dtype, cfg.projector)
    self.llm = Llama(cfg.llama, dtype)
    self.seg_prompt = SegPrompt(cfg.seg_prompt, cfg.llama.width, dtype)
    cudnn = cfg.llama.attention == "cudnn"  # asked for, and known to be there
    form = "cudnn" if cudnn else "auto"
    self.sam = Sam(cfg.sam_encoder, cfg.sam_decoder, dtype, form)

  def __call__(self, batch, *, deterministic=True):
    """One forward pass with known answers.

    In place of pixels a batch may carry what `miras data cache` made of them:
    `image_tokens` [B, N, D], `sam_features` [B, h, w, C].

    Returns a dict: `hidden [B, T, D]`, `mask_logits [B, M, h, w]` at a quarter of the
    SAM canvas, `iou [B, M]`.
    """
    batch = batch | self.ahead(batch)
    hidden_BTD = self.hidden(batch, deterministic=deterministic)
    mask_logits_BMHW, iou_BM = self.masks_of(batch, hidden_BTD)
    return {"hidden": hidden_BTD, "mask_logits": mask_logits_BMHW, "iou": iou_BM}

  def ahead(self, batch):
    """What both `hidden` and `masks_of` need, to be added to the batch and made once:
    `sam_features`, where the image tokens are made of them, else nothing."""
    known = "image_tokens" in batch or "sam_features" in batch
    if self.cfg.encoder == "dual" or known:
      return {}
    return {"sam_features": self.sam_features(batch["image_sam"], batch["valid_hw"])}

  def hidden(self, batch, *, deterministic=True):
    """Final-normed hidden states [B, T, D] of every token of a batch that has what
    `ahead` adds."""
    if "image_tokens" in batch:
      image_tokens_BND = batch["image_tokens"].astype(self.dtype)
    elif self.cfg.encoder == "dual":
      image_tokens_BND = self.image_tokens(batch["image_aux"])
    else:
      image_tokens_BND = self.image_tokens(
        batch["image_aux"], batch["sam_features"], batch["valid_hw"]
      )
    x_BTD = self.embed(batch["tokens"], batch["image_slot"], image_tokens_BND)
    hidden_BTD = self.llm(
      sharding.constrain(x_BTD, "decoder"),
      batch["positions"],
      segment_mask(batch["segments"]),
      segments_BT=batch["segments"],
      deterministic=deterministic,
    )
    return sharding.constrain(hidden_BTD, "decoder")

  def masks_of(self, batch, hidden_BTD):
    """(mask_logits [B, M, h, w], iou [B, M]) of every [SEG] of a batch."""
    prompt_BMC = self.seg_prompt(
      hidden_BTD, batch["seg_pos"], batch["obj_pos"], batch["seg_valid"]
    )
    if "sam_features" in batch:
      sam_BHWC = batch["sam_features"].astype(self.dtype)
    else:
      sam_BHWC = self.sam_features(batch["image_sam"], batch["valid_hw"])
    return self.masks(sam_BHWC, prompt_BMC)

  def image_tokens(self, image_aux_BHWC, sam_BHWC=None, valid_hw_B2=None):
    """uint8 aux view -> image tokens in decoder width, [B, N, D].

    sam_BHWC, valid_hw_B2: what `sam_features` gives and takes, unless "dual".
    """
    cfg = self.cfg
    if cfg.encoder == "dual":
      return self._dual_tokens(image_aux_BHWC)
    cells = cfg.mined_grid or cfg.image_grid
    features_BKKC = on_grid(
      sam_BHWC[..., : cfg.sam_encoder.out_width].astype(self.dtype),
      cells,
      view=self.view,
      valid_hw_B2=valid_hw_B2,
      canvas=cfg.sam_encoder.image_size,
    )
    if cfg.encoder == "sam_only":
      tokens_BNC = features_BKKC.reshape(len(sam_BHWC), cells * cells, -1)
      return self.projector(tokens_BNC)
    aux_BHWC = normalise(image_aux_BHWC, CLIP_MEAN, CLIP_STD)
    return self.projector(self.mining(self.clip(aux_BHWC), features_BKKC))

  def _dual_tokens(self, image_aux_BHWC):
    aux_BHWC = normalise(image_aux_BHWC, CLIP_MEAN, CLIP_STD)
    size = self.cfg.clip.image_size
    # As published: the CLIP view is the normalised aux view, resized without antialias.
    tokens_BND = self.clip(resize_bilinear(aux_BHWC, size, size))
    if self.cfg.convnext:
      tokens_BND = self.mining(tokens_BND, self.convnext(aux_BHWC))
    return self.projector(tokens_BND)

  def sam_features(self, image_sam_BHWC, valid_hw_B2):
    """uint8 SAM view -> image embedding [B, h, w, C]."""
    image_BHWC = normalise(image_sam_BHWC, SAM_MEAN, SAM_STD)
    return self.sam.encode(zero_padding(image_BHWC, valid_hw_B2))

  def embed(self, tokens_BT, image_slot_BT, image_tokens_BND):
    """Token embeddings with image token `image_slot` wherever that is not -1."""
    x_BTD = self.llm.embed(tokens_BT)
    slot_BT1 = jnp.maximum(image_slot_BT, 0)[..., None]
    image_BTD = jnp.take_along_axis(image_tokens_BND, slot_BT1, axis=1)
    return jnp.where(image_slot_BT[..., None] >= 0, image_BTD, x_BTD)

  def extend(self, x_BTD, positions_BT, cache, write_index_B, mask_BTS, only_B=None):
    """`Llama.extend`: new tokens against the KV cache."""
    return self.llm.extend(x_BTD, positions_BT, cache, write_index_B, mask_BTS, only_B)

  def logits(self, hidden_BTD):
    """Float32 logits [B, T, V] of final-normed hidden states."""
    return self.llm.logits(hidden_BTD)

  def prompts(self, hidden_BTD, seg_pos_BM, obj_pos_BM, seg_valid_BM):
    """`SegPrompt`: hidden states -> mask prompts [B, M, C]."""
    return self.seg_prompt(hidden_BTD, seg_pos_BM, obj_pos_BM, seg_valid_BM)

  def masks(self, sam_BHWC, prompt_BMC, hints=None):
    """One mask a prompt: (logits [B, M, h, w], predicted IoU [B, M])."""
    return self.sam.masks_from_text(sam_BHWC, prompt_BMC, hints)


def batch_sizes(cfg, *, batch_size=1, length=8, max_masks=1) -> dict[str, int]:
  """The lengths in `batch_table.TABLE` of a batch of this MirasConfig.

  A row has room for the image, however short `length` is; the id of padding is 0.
  """
  return {
    "B": batch_size,
    "T": max(length, cfg.num_image_tokens),
    "M": max_masks,
    "S": cfg.sam_encoder.image_size,
    "A": cfg.aux_size,
    "N": cfg.num_image_tokens,
    "D": cfg.llama.width,
    "G": cfg.sam_encoder.grid,
    "C": cfg.sam_encoder.feature_width,
    "pad": 0,
  }


def dummy_batch(cfg, *, batch_size=1, length=8, max_masks=1) -> dict[str, jax.Array]:
  """A Batch of padding in the model's shapes, for init and tests."""
  sizes = batch_sizes(cfg, batch_size=batch_size, length=length, max_masks=max_masks)
  return {
    name: jnp.full(
      batch_table.shape(name, sizes),
      batch_table.fill_value(name, sizes),
      batch_table.TABLE[name].dtype,
    )
    for name in batch_table.names()
  }


@functools.partial(jax.jit, static_argnums=(0, 2))
def init_params(cfg, rng, dtype=jnp.float32):
  """Random parameters of `Miras(cfg)`, a nested dict; for jit or eval_shape.

  Jitted to be traced once: a command asks for these shapes several times.
  """
  return Miras(cfg, dtype).init(rng, dummy_batch(cfg))["params"]
