"""Which earlier mask a [SEG] is about, how the new one relates to it, and its prompt.

  pointer   the [SEG] state attends over the slots and a null key
  relation  of the new mask to each slot: input_pipeline/slots/relations.py
  dense     SAM's no-mask embedding where null is meant, else moved towards that of the
            slot, by a gate for each relation; all but that of `same` start at zero
  text      the prompt of the words, plus what is kept of the slot; starts at zero

With no slot filled nothing changes. In float32: as small as SAM's mask decoder.

B batch, M new masks, E slots, D decoder width, C SAM width, R relations.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from input_pipeline.slots.relations import RELATIONS, SAME
from miras_jax.config.model import MirasConfig
from miras_jax.models.layers import Linear
from miras_jax.models.state.encode import Picture, SlotEncoder, Slots

NEVER = -1e30  # a logit


class Reading(NamedTuple):
  """pointer_BMX: logits of the E slots and of none, X = E + 1; those that are not seen
  have NEVER. relation_BMER: logits. slot_BEC: what is kept of each. seen_BME: bool."""

  pointer_BMX: jax.Array
  relation_BMER: jax.Array
  slot_BEC: jax.Array
  seen_BME: jax.Array


class StatePrompt(nn.Module):
  """Parameters: `encoder`, `pointer_{query,key}`, `null_key`, `age_bias`,
  `relation_{query,key,out}`, `gates`, `slot_value`, `relation_value`, `again`."""

  cfg: MirasConfig
  view: str = "letterbox"
  dtype: Any = jnp.float32

  def setup(self):
    C, R = self.cfg.sam_decoder.width, len(RELATIONS)
    zeros, small = nn.initializers.zeros, nn.initializers.normal(1.0)
    self.encoder = SlotEncoder(self.cfg, self.view, self.dtype)
    self.pointer_query, self.pointer_key = Linear(C), Linear(C)
    self.null_key = self.param("null_key", small, (C,))
    self.age_bias = self.param("age_bias", zeros, (self.cfg.state_slots,))
    self.relation_query, self.relation_key = Linear(C), Linear(C)
    self.relation_out = Linear(R)
    self.gates = self.param("gates", _only_same, (R, C))
    self.slot_value = Linear(C, kernel_init=zeros)
    self.relation_value = Linear(C, kernel_init=zeros)
    self.again = Linear(C)

  def __call__(self, states_BMD, slots: Slots, picture: Picture) -> Reading:
    """states_BMD: of the [SEG]s."""
    states_BMD = states_BMD.astype(self.dtype)
    slot_BEC = self.encoder(slots, picture)
    seen_BME = slots.seen_BME > 0
    pick_B11 = slots.pick_B[:, None, None]
    chosen = jnp.arange(seen_BME.shape[-1]) == pick_B11
    seen_BME &= chosen | (pick_B11 < 0)
    pointer_BMX = self._pointer(states_BMD, slot_BEC, seen_BME, pick_B11)
    query, key = self.relation_query(states_BMD), self.relation_key(slot_BEC)
    both_BMEC = nn.relu(query[:, :, None] + key[:, None])
    return Reading(pointer_BMX, self.relation_out(both_BMEC), slot_BEC, seen_BME)

  def _pointer(self, states_BMD, slot_BEC, seen_BME, pick_B11):
    query_BMC, key_BEC = self.pointer_query(states_BMD), self.pointer_key(slot_BEC)
    scale = query_BMC.shape[-1] ** -0.5
    logits_BME = jnp.einsum("BMC,BEC->BME", query_BMC, key_BEC) * scale
    logits_BME += self.age_bias[ages(seen_BME, self.cfg.state_slots)]
    null_BM1 = (query_BMC @ self.null_key * scale)[..., None]
    null_BM1 = jnp.where(pick_B11 >= 0, NEVER, null_BM1)
    logits_BME = jnp.where(seen_BME, logits_BME, NEVER)
    return jnp.concatenate([logits_BME, null_BM1], axis=-1)

  def text(self, prompt_BMC, reading: Reading):
    """The prompts of the words with what is kept of the slots that are meant."""
    meant_BME, kinds_BMER = chances(reading)
    value_BEC = self.slot_value(reading.slot_BEC)
    added_BMC = jnp.einsum("BME,BEC->BMC", meant_BME, value_BEC)
    kinds_BMR = jnp.einsum("BME,BMER->BMR", meant_BME, kinds_BMER)
    added_BMC += self.relation_value(kinds_BMR)
    seen_BM1 = reading.seen_BME.any(-1, keepdims=True)
    prompt_BMC = prompt_BMC.astype(self.dtype)
    return jnp.where(seen_BM1, prompt_BMC + added_BMC, prompt_BMC)

  def weights(self, reading: Reading):
    """[B, M, E, C]: how far each channel of the dense prompt moves to each slot's."""
    meant_BME, kinds_BMER = chances(reading)
    gate_BMEC = jnp.einsum("BMER,RC->BMEC", kinds_BMER, self.gates)
    return meant_BME[..., None] * gate_BMEC

  def repeat(self, reading: Reading):
    """[B, E, C]: prompts that ask for the earlier masks again."""
    return self.again(reading.slot_BEC)


def chances(reading: Reading):
  """(how likely each slot is meant [B, M, E], each relation to it [B, M, E, R])."""
  meant_BMX = jax.nn.softmax(reading.pointer_BMX)
  meant_BME = jnp.where(reading.seen_BME, meant_BMX[..., :-1], 0.0)
  return meant_BME, jax.nn.softmax(reading.relation_BMER)


def ages(seen_BME, most) -> jax.Array:
  """How many later slots are seen beside each, up to `most` - 1: 0 is the latest."""
  seen = seen_BME.astype(jnp.int32)
  later = jnp.cumsum(seen[..., ::-1], axis=-1)[..., ::-1] - seen
  return jnp.clip(later, 0, most - 1)


def _only_same(key, shape, dtype=jnp.float32):
  del key
  return jnp.zeros(shape, dtype).at[SAME].set(1.0)
