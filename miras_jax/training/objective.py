"""What is minimised: the model's losses over a Batch, in the form `train_step` wants.

B batch, M masks, H W rows and columns of the loss resolution.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from miras_jax.config.settings import LossConfig
from miras_jax.models.layers import resize_bilinear
from miras_jax.parallel import sharding
from miras_jax.training import losses, state_losses

METRIC_THRESHOLD = 0.0  # a logit above it is foreground, as SAM's mask_threshold


@dataclasses.dataclass(frozen=True)
class MirasObjective:
  """`train_step.Objective` of a `Miras` model.

  `resolution`: side of the square that masks are compared on; logits are resized to it
  bilinearly, targets by averaging. It divides the SAM canvas.
  `sources`: the entries of the mixture by name; the terms of each are logged as
  "term/name", and "examples/name" counts its conversations.
  `skip_maskless`: a batch (a micro-batch) without any mask runs neither the mask
  decoder nor, where nothing else needs it, SAM's image encoder. Another program: only
  where there can be such batches.
  """

  model: object
  loss: LossConfig
  resolution: int
  sources: tuple[str, ...] = ()
  skip_maskless: bool = False

  def __post_init__(self):
    canvas = self.model.cfg.sam_encoder.image_size
    if self.resolution < 1 or canvas % self.resolution:
      near = [n for n in (canvas // 2, canvas // 4) if n]
      raise ValueError(
        f"loss_resolution={self.resolution} does not divide SAM's picture of {canvas}"
        f" pixels; take {' or '.join(map(str, near))}"
      )

  @property
  def weights(self):
    terms = ("token_ce", *self.mask_terms, *self._state_terms)
    return {t: getattr(self.loss, t) for t in terms if getattr(self.loss, t)}

  @property
  def mask_terms(self) -> list[str]:
    """The terms of masks that have a weight."""
    terms = ["mask_bce", "dice", "focal", "boundary", "iou"]
    if self.model.cfg.sam_decoder.presence:
      terms.append("presence")
    return [term for term in terms if getattr(self.loss, term)]

  @property
  def _state_terms(self):
    terms = state_losses.terms_of(self.model.cfg)
    return [term for term in terms if getattr(self.loss, term)]

  def counts(self, batch):
    """Valid targets of each term: supervised tokens, masks, or slots."""
    _, weight_BT = losses.next_tokens(batch["tokens"], batch["loss_mask"])
    valid_BM = batch["seg_valid"].astype(jnp.float32)
    each = {"token_ce": weight_BT} | dict.fromkeys(self.mask_terms, valid_BM)
    if self._state_terms:
      each |= state_losses.targets(batch)
    counts = {t: each[t].sum() for t in self.weights}
    if not self._has_sources(batch):
      return counts
    rows = {t: each[t].reshape(len(valid_BM), -1).sum(1) for t in self.weights}
    return counts | self._by_source(batch, rows) | self._examples(batch, counted=False)

  def sums(self, params, batch, rng):
    """Loss sums over valid targets and, as a metric, (intersection, union) of masks."""
    rngs = {} if rng is None else {"dropout": rng}
    apply = functools.partial(self.model.apply, {"params": params})
    batch = batch | apply(batch, method="ahead")
    hidden_BTD = apply(batch, deterministic=rng is None, rngs=rngs, method="hidden")
    by_row = self._has_sources(batch)

    def of_all():
      again = bool(self._state_terms and self.loss.state_mask)
      made = apply(batch, hidden_BTD, again=again, method="made_of")
      sums, pairs = self.of_masks(made["decoded"], batch, by_row)
      if self._state_terms:
        sums |= state_losses.sums(made, batch, self._state_terms, by_row)
      return sums, pairs

    if self.skip_maskless:
      nothing = functools.partial(self._of_no_masks, batch, by_row)
      has_masks = sharding.any_part((batch["seg_valid"] > 0).any())
      sums, pairs = jax.lax.cond(has_masks, of_all, nothing)
    else:
      sums, pairs = of_all()
    if self.loss.token_ce:
      sums["token_ce"] = losses.chunked_token_ce(
        hidden_BTD,
        head_kernel(params),
        batch["tokens"],
        batch["loss_mask"],
        normaliser=1.0,
        by_row=by_row,
      )
    if by_row:
      parts = self._by_source(batch, sums) | self._examples(batch, counted=True)
      sums = {term: rows_B.sum() for term, rows_B in sums.items()} | parts
    return sums, jax.lax.stop_gradient(pairs)

  def of_masks(self, decoded, batch, by_row):
    """(sums of the mask terms, {metric: (numerator, denominator)}) of a Decoded."""
    logits_BMHW, target_BMHW, pixels_BHW = self.compared(decoded.logits, batch)
    sums = losses.mask_losses(
      self.loss,
      logits_BMHW,
      target_BMHW,
      predicted_BM=decoded.iou,
      present_BM=decoded.present_BM,
      seg_valid_BM=batch["seg_valid"],
      pixels_BHW=pixels_BHW,
      normaliser=1.0,
      by_row=by_row,
    )
    valid_BMHW = pixels_BHW[:, None] & (batch["seg_valid"] > 0)[..., None, None]
    return sums, {"ciou": overlap(logits_BMHW, target_BMHW, valid_BMHW)}

  def _of_no_masks(self, batch, by_row):
    """What `sums` takes of masks where no row has a mask."""
    zero, number = jnp.zeros(batch["seg_valid"].shape[:by_row]), jnp.zeros(())
    terms = [*self.mask_terms, *self._state_terms]
    return dict.fromkeys(terms, zero), {"ciou": (number, number)}

  def _has_sources(self, batch):
    return bool(self.sources) and "source" in batch

  def _by_source(self, batch, rows):
    """{term: one number a row} -> {"term/source": its sum over the source's rows}."""
    of_source_BK = batch["source"][:, None] == jnp.arange(len(self.sources))
    sums = {t: (x_B[:, None] * of_source_BK).sum(0) for t, x_B in rows.items()}
    return {
      f"{term}/{name}": sums_K[k]
      for term, sums_K in sums.items()
      for k, name in enumerate(self.sources)
    }

  def _examples(self, batch, *, counted):
    """How many conversations of each source a batch holds: a sum over a count of 1."""
    if not counted:
      return {f"examples/{name}": jnp.ones(()) for name in self.sources}
    # The talks of a packed row are its segments from 2 on (input_pipeline/packing.py).
    talks_B = jnp.maximum(batch["segments"].max(1) - 1, 1)
    sound_B = batch["loss_mask"].max(1) > 0
    return self._by_source(batch, {"examples": (talks_B * sound_B).astype(jnp.float32)})

  def compared(self, mask_logits_BMhw, batch):
    """(logits, soft targets, pixels on the image), all at the loss resolution."""
    side, canvas = self.resolution, self.model.cfg.sam_encoder.image_size
    B, M, h, _ = mask_logits_BMhw.shape
    if h != side:
      flat = mask_logits_BMhw.reshape(B * M, h, h, 1)
      mask_logits_BMhw = resize_bilinear(flat, side, side).reshape(B, M, side, side)
    target_BMHW = self.targets(batch)
    pixels_BHW = losses.valid_pixels(batch["valid_hw"], side, side, canvas)
    return mask_logits_BMhw, target_BMHW, pixels_BHW

  def targets(self, batch):
    """The masks of a batch at the loss resolution, 0 to 1, [B, M, H, W]."""
    target = batch["masks"].astype(jnp.float32)
    B, M, canvas, _ = target.shape
    side, k = self.resolution, canvas // self.resolution
    return target.reshape(B, M, side, k, side, k).mean((3, 5))


def head_kernel(params):
  """[D, V] output projection: the head's own, or the embedding's when tied."""
  llm = params["llm"]
  return llm["lm_head"]["kernel"] if "lm_head" in llm else llm["embed"]["embedding"].T


def overlap(logits_BMHW, target_BMHW, valid_BMHW):
  """(intersection, union) in pixels, over all valid masks together."""
  predicted = (logits_BMHW > METRIC_THRESHOLD) & valid_BMHW
  true = (target_BMHW > 0.5) & valid_BMHW
  both, either = (predicted & true).sum(), (predicted | true).sum()
  return both.astype(jnp.float32), either.astype(jnp.float32)
