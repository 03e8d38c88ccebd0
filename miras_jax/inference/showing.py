"""Programs that put earlier masks before the language model: its `slot_table`.

Images are encoded with a table of missing masks. Before a prompt is read that speaks of
masks (`conversation.prompt_of`), the table is filled with theirs; what was read of an
earlier one stays in the cache.

B rows, E slots, Q side of a mask, D decoder width.
"""

import jax
import jax.numpy as jnp

from input_pipeline.slots import fill
from miras_jax.inference import memory
from miras_jax.parallel import sharding


def show(model, params, encoded, slots) -> jax.Array:
  """The table [B, E * SLOT_TOKENS, D] of encodings: of `memory.stack`'s masks."""
  table = _table(model, params, encoded, slots)
  return sharding.constrain(table, "rows")


def show_row(model, params, encoded, slots, row) -> jax.Array:
  """`show` of one row (data, not shape), with slots of a B of 1."""
  one = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, row, 1, 0), encoded)
  new = _table(model, params, one, slots)
  table = jax.lax.dynamic_update_slice_in_dim(encoded["slot_table"], new, row, 0)
  return sharding.constrain(table, "rows")


def nothing(model, params, encoded) -> jax.Array:
  """The table of encodings without a mask."""
  cfg, rows = model.cfg, len(encoded["image_tokens"])
  none_BE = jnp.zeros((rows, cfg.state_slots), jnp.int32)
  masks = jnp.zeros((*none_BE.shape, cfg.mask_side, cfg.mask_side), jnp.uint8)
  slots = {"valid": none_BE, "origin": none_BE, "masks": masks}
  return show(model, params, encoded, slots)


def _table(model, params, encoded, slots):
  masks_BEQQ = slots["masks"].astype(jnp.float32) / fill.INSIDE
  inputs = masks_BEQQ, slots["valid"], slots["origin"], memory.picture(encoded)
  return model.apply({"params": params}, *inputs, method="slot_table")
