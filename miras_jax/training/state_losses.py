"""Losses of the segmentation state: which earlier mask, how related, what was it.

Labels come with the batch (`input_pipeline.slots`). Each sum is over what `targets`
counts; all in float32.

B rows, M masks, E earlier ones, X = E and none, R relations, h w sides of a mask.
"""

import jax
import jax.numpy as jnp

from miras_jax.training import losses

DENSE = ("state_relation", "state_pointer")
TERMS = (*DENSE, "state_mask")


def terms_of(cfg) -> tuple[str, ...]:
  """Those that a MirasConfig has."""
  if cfg.state == "none":
    return ()
  return TERMS if cfg.has_dense_state else ("state_mask",)


def targets(batch) -> dict:
  """{term: 1 for each target, else 0}: slots that are seen, masks that see one, slots
  that are filled."""
  return {
    "state_relation": (batch["slot_relation"] >= 0).astype(jnp.float32),
    "state_pointer": (batch["slot_pointer"] >= 0).astype(jnp.float32),
    "state_mask": batch["slot_valid"].astype(jnp.float32),
  }


def sums(made, batch, terms, by_row=False) -> dict:
  """{term: sum, [B] with by_row}. made: what `Miras.made_of` gives."""
  reading, due, found = made.get("reading"), targets(batch), {}
  if "state_relation" in terms:
    found["state_relation"] = _cross_entropy(
      reading.relation_BMER, batch["slot_relation"]
    )
  if "state_pointer" in terms:
    found["state_pointer"] = _cross_entropy(reading.pointer_BMX, batch["slot_pointer"])
  if "state_mask" in terms:
    found["state_mask"] = again_loss(made["again"], made["slot_masks"])
  return {
    term: losses.total(value * due[term], by_row) for term, value in found.items()
  }


def again_loss(logits_BEhw, held_BEhw) -> jax.Array:
  """[B, E]: logistic loss and dice of masks decoded from what is kept of them."""
  where = dict(
    seg_valid_BM=jnp.ones((logits_BEhw.shape[0], 1)), normaliser=1.0, by_row=True
  )

  def one(logits_Bhw, held_Bhw):
    args = logits_Bhw[:, None], held_Bhw[:, None]
    return losses.mask_bce(*args, **where) + losses.dice(*args, **where, scale=1.0)

  return jax.vmap(one, in_axes=1, out_axes=1)(logits_BEhw, held_BEhw)


def _cross_entropy(logits, label) -> jax.Array:
  """Of the label in the last axis; of no use where that is -1."""
  picked = jnp.take_along_axis(logits, jnp.maximum(label, 0)[..., None], axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - picked[..., 0]
