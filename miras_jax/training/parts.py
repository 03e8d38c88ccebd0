"""The first stage of a run from random weights: parts learn before they work together.

Words of the user, or the name of a target, say which mask is meant, as their token
embeddings alone; the language model and its image encoders do not run. A sixth of the
masks is asked for by a point or a box instead. So SAM's parts, the word embeddings and
the prompt of [SEG] know each other when the first answer is learnt.

The release starts from pretrained parts and has no such stage; points and boxes are
drawn as Segment Anything's are (arXiv 2304.02643, appendix A, "Training algorithm").

B batch, T tokens, M masks, P of them prompted by a place, H W sides of the loss
resolution.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from miras_jax.training.objective import MirasObjective

PLACED = 6  # one mask in so many is asked for by a place
BOX_NOISE = 0.1  # deviation of a box's sides, as a share of its size


@dataclasses.dataclass(frozen=True)
class PartsObjective:
  """`train_step.Objective` of that stage: the mask terms of `whole`."""

  whole: MirasObjective

  @property
  def weights(self):
    masks = self.whole.mask_terms
    return {t: w for t, w in self.whole.weights.items() if t in masks}

  def counts(self, batch):
    """Valid masks, for each term."""
    return dict.fromkeys(self.weights, batch["seg_valid"].astype(jnp.float32).sum())

  def sums(self, params, batch, rng):
    """As `MirasObjective.sums`; without `rng` every mask is asked for by the user's
    words."""
    whole, asked = self.whole, batch
    places = {}
    if rng is not None:
      asked, places = _drawn(whole, batch, rng)
    apply = functools.partial(whole.model.apply, {"params": params})
    decoded = apply(asked, **places, method="parts_of")
    sums, pairs = whole.of_masks(decoded, asked, by_row=False)
    return sums, jax.lax.stop_gradient(pairs)


def _drawn(whole, batch, rng):
  """(the batch with its masks in another order, the places of the first of them and
  which of the others are asked for by name)."""
  order, name, place = jax.random.split(rng, 3)
  M = batch["seg_valid"].shape[1]
  order_M = jax.random.permutation(order, M)
  of_masks = ("seg_pos", "obj_pos", "seg_valid", "masks")
  batch = batch | {k: batch[k][:, order_M] for k in of_masks}
  named_BM = jax.random.bernoulli(name, shape=batch["seg_valid"].shape)
  P = M // PLACED
  found = {"named_BM": named_BM & (batch["obj_pos"] >= 0)}
  if P:
    target_BPHW = whole.targets(batch)[:, :P]
    unit = whole.model.cfg.sam_encoder.image_size / whole.resolution
    found |= _places(target_BPHW > 0.5, unit, place)
    # Nothing is where no place is.
    empty_BP = ~(target_BPHW > 0.5).any((2, 3))
    valid_BM = batch["seg_valid"].at[:, :P].multiply(1 - empty_BP.astype(jnp.int32))
    batch = batch | {"seg_valid": valid_BM}
  return batch, found


def _places(inside_BPHW, unit, rng):
  """A point in each mask and a box around it, in pixels of SAM's canvas, and which of
  the two is meant. unit: pixels of a cell."""
  at, side, kind = jax.random.split(rng, 3)
  B, P, H, W = inside_BPHW.shape
  noise = jax.random.gumbel(at, (B, P, H * W))
  cell_BP = jnp.where(inside_BPHW.reshape(B, P, -1), noise, -jnp.inf).argmax(-1)
  xy_BP2 = jnp.stack([cell_BP % W, cell_BP // W], -1) * unit + (unit - 1) / 2

  def ends(any_BPN):
    first = jnp.argmax(any_BPN, -1)
    last = any_BPN.shape[-1] - jnp.argmax(any_BPN[..., ::-1], -1)
    return first, last

  (x0, x1), (y0, y1) = ends(inside_BPHW.any(2)), ends(inside_BPHW.any(3))
  box_BP4 = jnp.stack([x0, y0, x1, y1], -1) * unit
  size_BP4 = jnp.tile(box_BP4[..., 2:] - box_BP4[..., :2], 2)
  box_BP4 += BOX_NOISE * size_BP4 * jax.random.normal(side, box_BP4.shape)
  return {
    "points_BP2": xy_BP2.astype(jnp.float32),
    "boxes_BP4": box_BP4,
    "boxed_BP": jax.random.bernoulli(kind, shape=(B, P)),
  }
