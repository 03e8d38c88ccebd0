"""Losses: token cross-entropy; mask cross-entropy, dice, focal, boundary, IoU.

All are masked, in float32, and divided by a normaliser that the caller passes: the
number of valid targets of the *whole* global batch, at least 1. So the sum over
accumulation steps, shards or packed rows is exactly the loss of the batch.

B rows (one image each), M masks a row, H W mask rows and columns, T tokens, D width,
V vocabulary, G shards of the batch. Mask arguments shared by the mask losses:
  logits_BMHW   mask logits
  targets_BMHW  0/1, any dtype
  seg_valid_BM  1 where there is a target, else 0
  pixels_BHW    1 inside the image, 0 on its padding; None: no padding
  predicted_BM  the IoU that the model gives its own masks
  present_BM    the logit that it gives to there being anything

With `by_row` a loss is one sum for each row, [B], instead of one of all.
"""

import jax
import jax.numpy as jnp

from miras_jax.config.lanes import LANES
from miras_jax.config.settings import BOUNDARY_FORMS, FOCAL_FORMS
from miras_jax.parallel import sharding

MAX_LOGITS = 2**26  # float32, of a device at a time: 256 MiB


def next_tokens(tokens_BT, loss_mask_BT):
  """What each position predicts: (targets_BT, weight_BT); the last predicts nothing.

  `loss_mask` is 1 on the tokens to be predicted, each from the position before it.
  """
  edges = ((0, 0), (0, 1))
  targets_BT = jnp.pad(tokens_BT[:, 1:], edges)
  return targets_BT, jnp.pad(loss_mask_BT[:, 1:], edges).astype(jnp.float32)


def token_ce(logits_BTV, tokens_BT, loss_mask_BT, *, normaliser) -> jax.Array:
  """Sum of next-token cross-entropy where `loss_mask` is 1, over `normaliser`."""
  targets_BT, weight_BT = next_tokens(tokens_BT, loss_mask_BT)
  return _ce_sum(logits_BTV, targets_BT, weight_BT) / normaliser


@jax.named_scope("token_ce")
def chunked_token_ce(
  hidden_BTD,
  head_DV,
  tokens_BT,
  loss_mask_BT,
  *,
  normaliser,
  by_row=False,
  chunk=None,
) -> jax.Array:
  """`token_ce` of `hidden @ head`, `chunk` positions at a time: by default as many as
  have MAX_LOGITS logits, since every chunk reads the head and writes its gradient.

  The logits of one chunk exist at a time, in the backward pass too: they are computed
  again there. The product runs in the dtype of `hidden`, the rest in float32.
  """
  whole = (hidden_BTD, *next_tokens(tokens_BT, loss_mask_BT))
  G = sharding.batch_shards(hidden_BTD.shape[0])
  chunk = chunk or positions_at_a_time(hidden_BTD.shape[0] // G, head_DV.shape[1])
  if G == 1:
    return _ce_in_chunks(whole, head_DV, chunk, by_row) / normaliser
  # A copy of the head for each shard of the batch: its gradient then adds up where it
  # is and crosses the network once, not once a chunk.
  head_GDV = jnp.broadcast_to(head_DV, (G, *head_DV.shape))
  head_GDV = sharding.constrain(head_GDV, "head_copies")
  shards = jax.tree.map(lambda x: x.reshape(G, -1, *x.shape[1:]), whole)
  of_each_G = jax.vmap(
    lambda part, head_DV: _ce_in_chunks(part, head_DV, chunk, by_row)
  )
  sums = of_each_G(shards, head_GDV)
  return (sums.reshape(-1) if by_row else sums.sum()) / normaliser


def positions_at_a_time(rows, vocabulary):
  """How many positions of so many rows have at most MAX_LOGITS logits, or LANES."""
  return max(MAX_LOGITS // (rows * vocabulary) // LANES, 1) * LANES


def _ce_in_chunks(whole, head_DV, chunk, by_row):
  """Sum of cross-entropy of `whole` = (hidden_BTD, targets_BT, weight_BT)."""

  @jax.checkpoint
  def ce_of(part, head_DV):
    hidden_BTD, targets_BT, weight_BT = part
    # Cast here, not once outside: the head's gradient then adds up in its own dtype.
    logits_BTV = jnp.einsum(
      "BTD,DV->BTV",
      hidden_BTD,
      head_DV.astype(hidden_BTD.dtype),
      preferred_element_type=jnp.float32,
    )
    return _ce_sum(logits_BTV, targets_BT, weight_BT, by_row)

  if whole[0].shape[1] <= chunk:
    return ce_of(whole, head_DV)
  chunks = jax.tree.map(lambda x: _chunks(x, chunk), whole)

  def add(total, part):
    return total + ce_of(part, head_DV), None

  start = jnp.zeros(whole[0].shape[:1] if by_row else (), jnp.float32)
  return jax.lax.scan(add, start, chunks)[0]


def _chunks(x_BT, chunk):
  """[B, T, ...] -> [chunks, B, chunk, ...], T padded with zeros: weight 0."""
  B, T = x_BT.shape[:2]
  x = jnp.pad(x_BT, ((0, 0), (0, -T % chunk)) + ((0, 0),) * (x_BT.ndim - 2))
  return jnp.moveaxis(x.reshape(B, -1, chunk, *x.shape[2:]), 1, 0)


def _ce_sum(logits_BTV, targets_BT, weight_BT, by_row=False):
  logits_BTV = logits_BTV.astype(jnp.float32)
  # A comparison instead of a gather: it fuses, and works on a sharded vocabulary.
  ids = jax.lax.broadcasted_iota(targets_BT.dtype, logits_BTV.shape, 2)
  is_target = ids == targets_BT[..., None]
  picked_BT = jnp.where(is_target, logits_BTV, 0).sum(-1)
  ce_BT = jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT
  return total(ce_BT * weight_BT, by_row)


def mask_losses(
  cfg,
  logits_BMHW,
  targets_BMHW,
  *,
  seg_valid_BM,
  predicted_BM=None,
  present_BM=None,
  pixels_BHW=None,
  normaliser,
  by_row=False,
):
  """The unweighted mask terms that `cfg` (a LossConfig) asks for, by name."""
  args = (logits_BMHW, targets_BMHW)
  where = dict(seg_valid_BM=seg_valid_BM, pixels_BHW=pixels_BHW, by_row=by_row)
  where["normaliser"] = normaliser
  terms = {}
  if cfg.mask_bce:
    terms["mask_bce"] = mask_bce(*args, **where)
  if cfg.dice:
    terms["dice"] = dice(*args, **where, scale=cfg.dice_scale)
  if cfg.focal:
    terms["focal"] = focal(*args, **where, form=cfg.focal_form)
  if cfg.boundary:
    terms["boundary"] = boundary(*args, **where, form=cfg.boundary_form)
  if cfg.iou:
    terms["iou"] = iou(*args, **where, predicted_BM=predicted_BM)
  if cfg.presence and present_BM is not None:
    terms["presence"] = presence(present_BM, targets_BMHW, **where)
  return terms


def valid_pixels(valid_hw_B2, height, width, image_size):
  """pixels_BHW, bool: cells whose centre lies on the image, not on its padding.

  valid_hw_B2: rows and columns of the square of side `image_size` that hold the image;
  height, width: the resolution that the loss is computed at.
  """
  rows_H = (jnp.arange(height) + 0.5) * image_size / height
  columns_W = (jnp.arange(width) + 0.5) * image_size / width
  inside_BH = rows_H < valid_hw_B2[:, :1]
  inside_BW = columns_W < valid_hw_B2[:, 1:]
  return inside_BH[:, :, None] & inside_BW[:, None, :]


def mask_bce(
  logits_BMHW, targets_BMHW, *, seg_valid_BM, pixels_BHW=None, normaliser, by_row=False
) -> jax.Array:
  """Logistic loss, mean over the pixels of a mask, summed over masks."""
  bce_BM = _mean_bce(logits_BMHW, targets_BMHW, pixels_BHW)
  return _masked_sum(bce_BM, seg_valid_BM, by_row) / normaliser


def dice(
  logits_BMHW,
  targets_BMHW,
  *,
  seg_valid_BM,
  pixels_BHW=None,
  normaliser,
  by_row=False,
  scale=1000.0,
  eps=1e-6,
) -> jax.Array:
  """1 - (2 sum(pt) / scale + eps) / ((sum p + sum t) / scale + eps), over masks."""
  p_BMHW, t_BMHW = _probabilities(logits_BMHW, targets_BMHW, pixels_BHW)
  overlap_BM = (p_BMHW * t_BMHW).sum((2, 3)) / scale
  total_BM = (p_BMHW.sum((2, 3)) + t_BMHW.sum((2, 3))) / scale
  dice_BM = 1 - (2 * overlap_BM + eps) / (total_BM + eps)
  return _masked_sum(dice_BM, seg_valid_BM, by_row) / normaliser


def focal(
  logits_BMHW,
  targets_BMHW,
  *,
  seg_valid_BM,
  pixels_BHW=None,
  normaliser,
  by_row=False,
  form="mask",
  alpha=0.8,
  gamma=2.0,
) -> jax.Array:
  """alpha (1 - exp(-b))^gamma b, where b is a mean logistic loss, not a pixel's.

  form="mask": b is the mean over the pixels of one mask, the terms are summed over
  masks. form="published": b is the mean over all masks of a row (an image), the terms
  are summed over rows, so many masks on an image weigh as much as one.
  """
  bce_BM = _mean_bce(logits_BMHW, targets_BMHW, pixels_BHW)
  if form == "published":
    valid_BM = seg_valid_BM.astype(jnp.float32)
    row_B = (bce_BM * valid_BM).sum(1) / jnp.maximum(valid_BM.sum(1), 1)
    return total(_focal(row_B, alpha, gamma), by_row) / normaliser
  if form != "mask":
    raise ValueError(f"focal {form=} is not in {FOCAL_FORMS}")
  # differs from reference: a mask weighs the same whatever else is on its image, so a
  # packed row has the loss of its conversations.
  return _masked_sum(_focal(bce_BM, alpha, gamma), seg_valid_BM, by_row) / normaliser


def _focal(bce, alpha, gamma):
  return alpha * (1 - jnp.exp(-bce)) ** gamma * bce


def boundary(
  logits_BMHW,
  targets_BMHW,
  *,
  seg_valid_BM,
  pixels_BHW=None,
  normaliser,
  by_row=False,
  form="probabilities",
  scale=1000.0,
  threshold=0.3,
) -> jax.Array:
  """Squared difference of Sobel edge maps over scale^2, summed over pixels and masks.

  form="probabilities" takes the edges of the probabilities. form="published" those of
  the probabilities past `threshold`, which has no gradient.
  """
  p_BMHW, t_BMHW = _probabilities(logits_BMHW, targets_BMHW, pixels_BHW)
  if form == "published":
    p_BMHW = jax.lax.stop_gradient(p_BMHW > threshold).astype(jnp.float32)
  elif form != "probabilities":
    raise ValueError(f"boundary {form=} is not in {BOUNDARY_FORMS}")
  # differs from reference: by default the threshold is left out, see above.
  difference = sobel_edges(p_BMHW) / scale - sobel_edges(t_BMHW) / scale
  if pixels_BHW is not None:
    difference = jnp.where(pixels_BHW[:, None], difference, 0)
  square_BM = jnp.square(difference).sum((2, 3))
  return _masked_sum(square_BM, seg_valid_BM, by_row) / normaliser


def iou(
  logits_BMHW,
  targets_BMHW,
  *,
  predicted_BM,
  seg_valid_BM,
  pixels_BHW=None,
  normaliser,
  by_row=False,
) -> jax.Array:
  """Squared error of the predicted IoU, summed over masks; masks get no gradient.

  As Segment Anything trains it (arXiv 2304.02643, appendix A, "Losses and training").
  The IoU is that of pixels past a logit of 0; of two empty masks it is 1.
  """
  p_BMHW, t_BMHW = _probabilities(logits_BMHW, targets_BMHW, pixels_BHW)
  mask_BMHW, true_BMHW = p_BMHW > 0.5, t_BMHW > 0.5
  both_BM = (mask_BMHW & true_BMHW).sum((2, 3))
  either_BM = (mask_BMHW | true_BMHW).sum((2, 3))
  iou_BM = jnp.where(either_BM > 0, both_BM / jnp.maximum(either_BM, 1), 1.0)
  error_BM = predicted_BM.astype(jnp.float32) - iou_BM
  return _masked_sum(jnp.square(error_BM), seg_valid_BM, by_row) / normaliser


def presence(
  present_BM, targets_BMHW, *, seg_valid_BM, pixels_BHW=None, normaliser, by_row=False
) -> jax.Array:
  """Logistic loss of whether a mask has a pixel at all, summed over masks.

  As SAM 2 trains its object score (arXiv 2408.00714, appendix D.1).
  """
  t_BMHW = targets_BMHW if pixels_BHW is None else targets_BMHW * pixels_BHW[:, None]
  there_BM = (t_BMHW > 0).any((2, 3)).astype(jnp.float32)
  bce_BM = jax.nn.softplus(present_BM) - present_BM * there_BM
  return _masked_sum(bce_BM, seg_valid_BM, by_row) / normaliser


def sobel_edges(x_BMHW) -> jax.Array:
  """Magnitude of the 3x3 Sobel gradient, zeros around the map."""
  x = jnp.pad(x_BMHW, ((0, 0), (0, 0), (1, 1), (1, 1)))
  down = x[:, :, 2:] - x[:, :, :-2]
  across = x[..., 2:] - x[..., :-2]
  grad_y = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
  grad_x = across[:, :, :-2] + 2 * across[:, :, 1:-1] + across[:, :, 2:]
  # The small term keeps the gradient finite where the map is flat.
  return jnp.sqrt(jnp.square(grad_x) + jnp.square(grad_y) + 1e-12)


def _probabilities(logits_BMHW, targets_BMHW, pixels_BHW):
  """Probabilities and targets in float32, zero on the padding."""
  p_BMHW = jax.nn.sigmoid(logits_BMHW.astype(jnp.float32))
  t_BMHW = targets_BMHW.astype(jnp.float32)
  if pixels_BHW is None:
    return p_BMHW, t_BMHW
  inside = pixels_BHW[:, None].astype(bool)
  return jnp.where(inside, p_BMHW, 0), jnp.where(inside, t_BMHW, 0)


def _mean_bce(logits_BMHW, targets_BMHW, pixels_BHW):
  """Logistic loss averaged over the pixels of each mask that lie on the image."""
  x_BMHW = logits_BMHW.astype(jnp.float32)
  bce_BMHW = jax.nn.softplus(x_BMHW) - x_BMHW * targets_BMHW.astype(jnp.float32)
  if pixels_BHW is None:
    return bce_BMHW.mean((2, 3))
  inside = pixels_BHW[:, None].astype(bool)
  count_B1 = inside.sum((2, 3)).astype(jnp.float32)
  return jnp.where(inside, bce_BMHW, 0).sum((2, 3)) / jnp.maximum(count_B1, 1)


def _masked_sum(value_BM, seg_valid_BM, by_row):
  return total(value_BM * seg_valid_BM.astype(jnp.float32), by_row)


def total(value, by_row):
  """The sum of all, or one for each row."""
  return value.sum(tuple(range(1, value.ndim))) if by_row else value.sum()
