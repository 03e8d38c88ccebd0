"""What is minimised: the model's losses over a Batch, in the form `train_step` wants.

B batch, M masks, H W rows and columns of the loss resolution.
"""

import dataclasses

import jax
import jax.numpy as jnp

from miras_jax.config.settings import LossConfig
from miras_jax.models.layers import resize_bilinear
from miras_jax.training import losses

METRIC_THRESHOLD = 0.0  # a logit above it is foreground, as SAM's mask_threshold


@dataclasses.dataclass(frozen=True)
class MirasObjective:
  """`train_step.Objective` of a `Miras` model.

  `resolution`: side of the square that masks are compared on; logits are resized to it
  bilinearly, targets by averaging. It divides the SAM canvas.
  """

  model: object
  loss: LossConfig
  resolution: int

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
    terms = ("token_ce", "mask_bce", "dice", "focal", "boundary")
    return {t: getattr(self.loss, t) for t in terms if getattr(self.loss, t)}

  def counts(self, batch):
    """Valid targets of each term: supervised tokens, or masks."""
    _, weight_BT = losses.next_tokens(batch["tokens"], batch["loss_mask"])
    masks = batch["seg_valid"].astype(jnp.float32).sum()
    return {t: weight_BT.sum() if t == "token_ce" else masks for t in self.weights}

  def sums(self, params, batch, rng):
    """Loss sums over valid targets and, as a metric, (intersection, union) of masks."""
    rngs = {} if rng is None else {"dropout": rng}
    out = self.model.apply(
      {"params": params}, batch, deterministic=rng is None, rngs=rngs
    )
    logits_BMHW, target_BMHW, pixels_BHW = self.compared(out["mask_logits"], batch)
    sums = losses.mask_losses(
      self.loss,
      logits_BMHW,
      target_BMHW,
      seg_valid_BM=batch["seg_valid"],
      pixels_BHW=pixels_BHW,
      normaliser=1.0,
    )
    if self.loss.token_ce:
      sums["token_ce"] = losses.chunked_token_ce(
        out["hidden"],
        head_kernel(params),
        batch["tokens"],
        batch["loss_mask"],
        normaliser=1.0,
      )
    valid_BMHW = pixels_BHW[:, None] & (batch["seg_valid"] > 0)[..., None, None]
    pairs = {"ciou": overlap(logits_BMHW, target_BMHW, valid_BMHW)}
    return sums, jax.lax.stop_gradient(pairs)

  def compared(self, mask_logits_BMhw, batch):
    """(logits, soft targets, pixels on the image), all at the loss resolution."""
    side, canvas = self.resolution, self.model.cfg.sam_encoder.image_size
    B, M, h, _ = mask_logits_BMhw.shape
    if h != side:
      flat = mask_logits_BMhw.reshape(B * M, h, h, 1)
      mask_logits_BMhw = resize_bilinear(flat, side, side).reshape(B, M, side, side)
    target = batch["masks"].astype(jnp.float32)
    k = canvas // side
    target_BMHW = target.reshape(B, M, side, k, side, k).mean((3, 5))
    pixels_BHW = losses.valid_pixels(batch["valid_hw"], side, side, canvas)
    return mask_logits_BMhw, target_BMHW, pixels_BHW


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
