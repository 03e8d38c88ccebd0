"""The masks of the [SEG] of an answer, one after the other.

B rows, G new tokens, M masks, C prompt width, D decoder width.
"""

import jax
import jax.numpy as jnp

from miras_jax.inference import memory


def decoder(call, states_BGD, segs, encoded, prompt_BMC, hints, slots):
  """(function that decodes some masks, what it takes of all of them, [B, M, ...])."""
  if slots is None:

    def decode(prompt_B1C):
      return call(encoded["sam"], prompt_B1C, hints, method="masks")

    return decode, (prompt_BMC,)
  states_BMD = call(states_BGD, segs.seg_BM + 1, segs.valid_BM, method="seg_states")

  def decode_after(prompt_B1C, states_B1D):
    inputs = prompt_B1C, states_B1D, *memory.seen(slots, encoded, 1), hints
    return call(*inputs, method="masks_after")[:2]

  return decode_after, (prompt_BMC, states_BMD)


def masks(decode_one, inputs, valid_BM):
  """decode_one of the inputs that are valid in some row, one after the other: most
  turns ask for no mask or for one, and each costs as much as several new tokens."""
  shapes = jax.eval_shape(decode_one, *(x[:, :1] for x in inputs))
  M, wanted = valid_BM.shape[1], valid_BM.any(0).sum()  # valid ones come first

  def add(m, out):
    some = (jax.lax.dynamic_slice_in_dim(x, m, 1, 1) for x in inputs)
    found = decode_one(*some)
    return jax.tree.map(
      lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, m, 1), out, found
    )

  nothing = jax.tree.map(
    lambda x: jnp.zeros((x.shape[0], M, *x.shape[2:]), x.dtype), shapes
  )
  return jax.lax.fori_loop(0, wanted, add, nothing)
