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
from input_pipeline.slots import fill
from miras_jax.config.model import MirasConfig
from miras_jax.models import sam_attention
from miras_jax.models.attention import attention_for, segment_mask
from miras_jax.models.clip_vit import ClipVit
from miras_jax.models.convnext import ConvNext
from miras_jax.models.fusion import PatchMining, Projector
from miras_jax.models.layers import resize_bilinear
from miras_jax.models.llama import Llama
from miras_jax.models.sam import Sam
from miras_jax.models.sam_decoder import Decoded
from miras_jax.models.sam_grid import on_grid
from miras_jax.models.seg_prompt import SegPrompt, select_states
from miras_jax.models.state.encode import Picture, Slots, own_masks
from miras_jax.models.state.prompt import StatePrompt
from miras_jax.models.state.tokens import StateTokens
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
  `cfg.encoder` says which of the first three there are, `cfg.state` whether there are
  `state` ("dense", "both") and `state_tokens` ("tokens", "both"). A "dual" one without
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
    # Asked for, and the devices at hand have it: shapes are traced without a GPU too.
    found = attention_for(cfg.llama.attention, jax.default_backend())
    form = "cudnn" if found == "cudnn" and sam_attention.cudnn_takes(dtype) else "auto"
    self.sam = Sam(cfg.sam_encoder, cfg.sam_decoder, dtype, form)
    if cfg.has_dense_state:
      self.state = StatePrompt(cfg, self.view)
    if cfg.slot_tokens:
      self.state_tokens = StateTokens(cfg, self.view)

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
    `sam_features`, where image or state tokens are made of them, `image_tokens`, where
    what is kept of earlier masks is, and the `slot_table` of state tokens; else
    nothing."""
    made, cfg = {}, self.cfg
    of_sam = cfg.encoder != "dual" and "image_tokens" not in batch
    shown = cfg.slot_tokens and "slot_masks" in batch
    if (of_sam or shown) and "sam_features" not in batch:
      seen = batch["image_sam"], batch["valid_hw"]
      made["sam_features"] = self.sam_features(*seen)
    if cfg.state != "none" and "image_tokens" not in batch:
      made["image_tokens"] = self._tokens_of(batch | made)
    if shown:
      made["slot_table"] = self._table_of(batch | made)
    return made

  def _table_of(self, batch):
    """State tokens of the slots of a batch."""
    masks_BEhw = batch["slot_masks"].astype(jnp.float32) / fill.INSIDE
    sam_BHWC = self._sam_of(batch)
    picture = Picture(batch["image_tokens"], sam_BHWC, batch["valid_hw"])
    return self.slot_table(
      masks_BEhw, batch["slot_valid"], batch["slot_origin"], picture
    )

  def slot_table(self, masks_BEQQ, valid_BE, origin_BE, picture):
    """The state tokens of earlier masks, [B, E * SLOT_TOKENS, D]: see StateTokens."""
    return self.state_tokens(masks_BEQQ, valid_BE, origin_BE, picture)

  def hidden(self, batch, *, deterministic=True):
    """Final-normed hidden states [B, T, D] of every token of a batch that has what
    `ahead` adds."""
    tokens_BND, table = self._tokens_of(batch), batch.get("slot_table")
    x_BTD = self.embed(batch["tokens"], batch["image_slot"], tokens_BND, table)
    hidden_BTD = self.llm(
      sharding.constrain(x_BTD, "decoder"),
      batch["positions"],
      segment_mask(batch["segments"]),
      segments_BT=batch["segments"],
      deterministic=deterministic,
    )
    return sharding.constrain(hidden_BTD, "decoder")

  def _tokens_of(self, batch):
    """Image tokens [B, N, D] of a batch."""
    if "image_tokens" in batch:
      return batch["image_tokens"].astype(self.dtype)
    if self.cfg.encoder == "dual":
      return self.image_tokens(batch["image_aux"])
    seen = batch["sam_features"], batch["valid_hw"]
    return self.image_tokens(batch["image_aux"], *seen)

  def masks_of(self, batch, hidden_BTD):
    """(mask_logits [B, M, h, w], iou [B, M]) of every [SEG] of a batch, as shown."""
    return self.made_of(batch, hidden_BTD)["decoded"].shown()

  def made_of(self, batch, hidden_BTD, *, again=False):
    """What training compares of every [SEG] of a batch, a dict: `decoded`, a Decoded of
    [B, M, ...], and of a batch with earlier masks what `_with_state` adds."""
    prompt_BMC = self.prompts(
      hidden_BTD, batch["seg_pos"], batch["obj_pos"], batch["seg_valid"]
    )
    if self.cfg.state != "none" and "slot_seen" in batch:
      return self._with_state(batch, hidden_BTD, prompt_BMC, again)
    return {"decoded": self.sam.masks_from_text(self._sam_of(batch), prompt_BMC)}

  def _sam_of(self, batch):
    if "sam_features" in batch:
      return batch["sam_features"].astype(self.dtype)
    return self.sam_features(batch["image_sam"], batch["valid_hw"])

  def parts_of(
    self, batch, named_BM=None, points_BP2=None, boxes_BP4=None, boxed_BP=None
  ):
    """Decoded masks of a batch whose language model waits: the first P are asked for by
    a place, the others by words, those of `named_BM` by the name in the answer and else
    by what the user has said before. See training/parts.py.
    """
    sam_BHWC = self._sam_of(batch)
    prompt_BMC = self._prompts_of_words(batch, named_BM)
    if points_BP2 is None:
      return self.sam.masks_from_text(sam_BHWC, prompt_BMC)
    P = points_BP2.shape[1]
    placed = self.sam.masks_from_places(sam_BHWC, points_BP2, boxes_BP4, boxed_BP)
    worded = self.sam.masks_from_text(sam_BHWC, prompt_BMC[:, P:])
    return jax.tree.map(lambda *both: jnp.concatenate(both, 1), placed, worded)

  def _prompts_of_words(self, batch, named_BM):
    """Mask prompts [B, M, C] of embeddings of words alone."""
    t_T = jnp.arange(batch["tokens"].shape[1])
    at_BM1, name_BM1 = batch["seg_pos"][..., None], batch["obj_pos"][..., None]
    before_BMT = t_T < at_BM1
    own_BM = jnp.take_along_axis(batch["segments"], batch["seg_pos"], axis=1)
    asked_BT = (batch["loss_mask"] == 0) & (batch["image_slot"] < 0)
    words_BMT = before_BMT & (batch["segments"][:, None] == own_BM[..., None])
    words_BMT &= asked_BT[:, None]
    if named_BM is not None:
      name_BMT = before_BMT & (t_T >= name_BM1)
      words_BMT = jnp.where(named_BM[..., None], name_BMT, words_BMT)
    words_BTD = self.llm.words(batch["tokens"])
    return self.seg_prompt.of_words(
      words_BTD, batch["seg_pos"], words_BMT, batch["seg_valid"]
    )

  def _with_state(self, batch, hidden_BTD, prompt_BMC, again):
    """`made_of` a batch that has earlier masks (`batch_table.SLOTS`).

    Of a dense state also its `reading`. Where `again` is wanted: logits [B, E, h, w] of
    the earlier masks, decoded from what is kept of them, and `slot_masks`, what they
    are. A slot for the model's own mask has what it makes without dense slots.
    """
    sam_BHWC = self._sam_of(batch)
    if self.cfg.has_dense_state:
      states_BMD = self.seg_states(hidden_BTD, batch["seg_pos"], batch["seg_valid"])
      made = self._with_dense(batch, sam_BHWC, prompt_BMC, states_BMD)
    else:
      made = {"decoded": self.sam.masks_from_text(sam_BHWC, prompt_BMC)}
    if not (again or self.is_initializing()):
      return made
    if self.cfg.slot_tokens:
      made["slot_masks"] = batch["slot_masks"].astype(jnp.float32) / fill.INSIDE
      asking = self.state_tokens.repeat(batch["slot_table"])
    else:
      asking = self.state.repeat(made["reading"])
    # Kept by no backward pass: it would be as much as of the masks that are asked for.
    again = nn.remat(lambda self, *inputs: self.sam.masks_from_text(*inputs).logits)
    return made | {"again": again(self, sam_BHWC, asking)}

  def _with_dense(self, batch, sam_BHWC, prompt_BMC, states_BMD):
    """Masks that look at the slots of a batch, `reading` and `slot_masks`."""
    slots = Slots(
      self._held(batch, sam_BHWC, prompt_BMC),
      batch["slot_origin"],
      batch["slot_seen"],
      jnp.full(len(prompt_BMC), -1),
    )
    picture = Picture(batch["image_tokens"], sam_BHWC, batch["valid_hw"])
    found, reading = self._decoded_after(prompt_BMC, states_BMD, slots, picture)
    return {"decoded": found, "reading": reading, "slot_masks": slots.masks_BEQQ}

  def _held(self, batch, sam_BHWC, prompt_BMC):
    """What the slots of a batch hold, 0 to 1; the masks of `own_masks` are made here,
    without a gradient."""
    masks_BEhw = batch["slot_masks"].astype(jnp.float32) / fill.INSIDE
    own_BE11 = batch["slot_own"][..., None, None]
    asked_BK, at_BE = own_masks(batch["slot_own"])
    asked_BKC = jnp.take_along_axis(prompt_BMC, asked_BK[..., None], axis=1)
    made_BKhw = jax.nn.sigmoid(self.masks(sam_BHWC, asked_BKC)[0])
    made_BEhw = jnp.take_along_axis(made_BKhw, at_BE[..., None, None], axis=1)
    return jnp.where(own_BE11 >= 0, jax.lax.stop_gradient(made_BEhw), masks_BEhw)

  def masks_after(self, prompt_BMC, states_BMD, slots, picture, hints=None):
    """Masks that look at earlier ones: (logits [B, M, h, w], iou [B, M], reading).

    states_BMD: of the [SEG]s. slots, picture: see `models.state`.
    """
    found, reading = self._decoded_after(prompt_BMC, states_BMD, slots, picture, hints)
    return *_shown(found, hints), reading

  def _decoded_after(self, prompt_BMC, states_BMD, slots, picture, hints=None):
    """(Decoded, reading) of masks that look at earlier ones."""
    reading = self.state(states_BMD, slots, picture)
    seen_BM = reading.seen_BME.any(-1)
    earlier = slots.masks_BEQQ, self.state.weights(reading), seen_BM
    prompt_BMC = self.state.text(prompt_BMC, reading)
    sam_BHWC = picture.sam_BHWC
    return self.sam.masks_from_text(sam_BHWC, prompt_BMC, hints, earlier), reading

  def seg_states(self, hidden_BTD, seg_pos_BM, seg_valid_BM):
    """The hidden state of each [SEG], [B, M, D]."""
    rule = self.cfg.seg_prompt.seg_state
    return select_states(hidden_BTD, seg_pos_BM, seg_valid_BM, seg_state=rule)

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

  def embed(self, tokens_BT, image_slot_BT, image_tokens_BND, slot_table=None):
    """Token embeddings with image token `image_slot` wherever that is not -1; the state
    tokens of `slot_table` are counted after the image's."""
    if slot_table is not None:
      tokens = image_tokens_BND, slot_table.astype(image_tokens_BND.dtype)
      image_tokens_BND = jnp.concatenate(tokens, axis=1)
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
    return _shown(self.sam.masks_from_text(sam_BHWC, prompt_BMC, hints), hints)


def _shown(found: Decoded, hints):
  """(logits, IoU) as a user sees them: where one has pointed, there is something."""
  return found.shown() if hints is None else (found.logits, found.iou)


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
    "E": max_masks,
    "Q": cfg.mask_side,
    "C": cfg.sam_encoder.feature_width,
    "pad": 0,
  }


def slot_names(cfg) -> tuple[str, ...]:
  """What a batch has for a model that looks at earlier masks; else nothing."""
  return () if cfg.state == "none" else batch_table.SLOTS


def dummy_batch(cfg, *, batch_size=1, length=8, max_masks=1) -> dict[str, jax.Array]:
  """A Batch of padding in the model's shapes, for init and tests."""
  sizes = batch_sizes(cfg, batch_size=batch_size, length=length, max_masks=max_masks)
  return {
    name: jnp.full(
      batch_table.shape(name, sizes),
      batch_table.fill_value(name, sizes),
      batch_table.TABLE[name].dtype,
    )
    for name in batch_table.names(slot_names(cfg))
  }


@functools.partial(jax.jit, static_argnums=(0, 2))
def init_params(cfg, rng, dtype=jnp.float32):
  """Random parameters of `Miras(cfg)`, a nested dict; for jit or eval_shape.

  Jitted to be traced once: a command asks for these shapes several times.
  """
  return Miras(cfg, dtype).init(rng, dummy_batch(cfg))["params"]
