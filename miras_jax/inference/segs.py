"""Where the [SEG] of an answer are, and the [OBJ] of each.

B rows, G new tokens, S places of the [SEG] in order, M masks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Segs(NamedTuple):
  """Where M [SEG] of each row are; `obj_BM` is -1 without an [OBJ]."""

  seg_BM: jax.Array
  obj_BM: jax.Array
  valid_BM: jax.Array
  count_B: jax.Array


def find_segs(tokens_BG, ids, max_masks, first=0):
  """Finds `max_masks` [SEG] of each row, from number `first` on, and for each its
  [OBJ]: the last one between it and the [SEG] before it."""
  g_G = jnp.arange(tokens_BG.shape[1])
  is_seg_BG = tokens_BG == ids.seg
  count_B = is_seg_BG.sum(1)
  order_BG = jnp.argsort(~is_seg_BG, axis=1, stable=True)
  # Before the first there is none. More slots than tokens are legal, and never valid.
  order_BS = jnp.pad(order_BG, ((0, 0), (1, 0)), constant_values=-1)
  order_BS = jnp.pad(order_BS, ((0, 0), (0, max_masks)))
  slots_BS = jax.lax.dynamic_slice_in_dim(order_BS, first, max_masks + 1, axis=1)
  before_BM, seg_BM = slots_BS[:, :-1], slots_BS[:, 1:]
  valid_BM = (first + jnp.arange(max_masks) < count_B[:, None]).astype(jnp.int32)
  is_obj_B1G = (tokens_BG == ids.obj)[:, None]
  between_BMG = (g_G > before_BM[..., None]) & (g_G < seg_BM[..., None])
  obj_BM = jnp.where(is_obj_B1G & between_BMG, g_G, -1).max(-1)
  return Segs(seg_BM, obj_BM, valid_BM, count_B)
