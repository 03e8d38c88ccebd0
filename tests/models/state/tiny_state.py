"""The tiny model with a state, random weights, and batches with earlier masks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from miras_jax.config.variants import TINY
from miras_jax.models import miras

CFG = dataclasses.replace(TINY, state="dense", state_slots=4)
SIDE = CFG.mask_side


@functools.cache
def params(state="dense"):
  """Random leaves: nothing starts at zero."""
  cfg = dataclasses.replace(CFG, state=state)
  shapes = jax.eval_shape(lambda: miras.init_params(cfg, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: 0.2 * rng.standard_normal(x.shape, np.float32), shapes)


def batch(masks=2, slots=2):
  """Two rows of 28 tokens; no slot is seen."""
  rng = np.random.default_rng(1)
  made = dict(miras.dummy_batch(CFG, batch_size=2, length=28, max_masks=masks))
  for name in ("image_sam", "image_aux"):
    made[name] = jnp.asarray(rng.integers(0, 256, made[name].shape), jnp.uint8)
  made["tokens"] = jnp.asarray(rng.integers(0, 500, (2, 28)), jnp.int32)
  at = np.full((2, 28), -1)
  at[:, 1:17] = np.arange(16)
  made["image_slot"] = jnp.asarray(at, jnp.int32)
  made["positions"] = jnp.tile(jnp.arange(28), (2, 1))
  made["segments"] = jnp.ones((2, 28), jnp.int32)
  made["seg_pos"] = jnp.tile(jnp.arange(18, 18 + masks), (2, 1))
  made["seg_valid"] = jnp.ones((2, masks), jnp.int32)
  made["valid_hw"] = jnp.array([[64, 48], [64, 64]])
  made["slot_masks"] = jnp.asarray(boxes(slots), jnp.uint8)
  made["slot_valid"] = jnp.ones((2, slots), jnp.int32)
  for name, fill, shape in (
    ("slot_origin", 0, (2, slots)),
    ("slot_own", -1, (2, slots)),
    ("slot_seen", 0, (2, masks, slots)),
    ("slot_relation", -1, (2, masks, slots)),
    ("slot_pointer", -1, (2, masks)),
  ):
    made[name] = jnp.full(shape, fill, jnp.int32)
  return made


def boxes(slots):
  """Another box of 255 in each slot."""
  masks = np.zeros((2, slots, SIDE, SIDE))
  for e in range(slots):
    masks[:, e, 3 * e + 2 : 3 * e + 12, 4 : 20 - e] = 255
  return masks


@functools.cache
def _apply(state):
  model = miras.Miras(dataclasses.replace(CFG, state=state))
  return jax.jit(lambda params, batch: model.apply({"params": params}, batch))


def masks(made, state="dense", weights=None):
  """Mask logits of a batch."""
  return _apply(state)(weights or params(), made)["mask_logits"]
