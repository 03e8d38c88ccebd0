"""Losses of earlier masks: counted where there is a label; they reach every part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from miras_jax.config.settings import LossConfig
from miras_jax.config.variants import TINY
from miras_jax.models import miras
from miras_jax.models.state.prompt import Reading
from miras_jax.training import state_losses
from miras_jax.training.objective import MirasObjective
from tests.models.state import tiny_state

WEIGHTS = LossConfig(token_ce=0.0, dice=1.0)


def objective(cfg=tiny_state.CFG, loss=WEIGHTS):
  return MirasObjective(miras.Miras(cfg), loss, 32)


def labelled():
  """A batch whose second masks are parts of the first slots."""
  made = tiny_state.batch()
  return made | {
    "slot_seen": made["slot_seen"].at[:, 1, 0].set(1),
    "slot_relation": made["slot_relation"].at[:, 1, 0].set(1),
    "slot_pointer": made["slot_pointer"].at[:, 1].set(0),
  }


def test_only_a_model_with_a_state_has_the_terms():
  assert set(objective(TINY).weights) == {"dice"}
  assert set(objective().weights) == {"dice", *state_losses.TERMS}
  tokens = dataclasses.replace(tiny_state.CFG, state="tokens")
  assert set(objective(tokens).weights) == {"dice", "state_mask"}


def test_what_is_counted_are_pairs_masks_and_slots_with_a_label():
  counts = objective().counts(labelled())
  found = {k: float(v) for k, v in counts.items()}
  assert found == {
    "dice": 4.0,
    "state_relation": 2.0,
    "state_pointer": 2.0,
    "state_mask": 4.0,
  }


@pytest.mark.parametrize("term", ["state_relation", "state_pointer"])
def test_the_right_answer_costs_less_and_no_label_nothing(term):
  made = labelled()
  right = Reading(
    jnp.zeros((2, 2, 3)).at[:, 1, 0].set(5.0),
    jnp.zeros((2, 2, 2, 7)).at[:, 1, 0, 1].set(5.0),
    *[None] * 2,
  )
  wrong = right._replace(
    pointer_BMX=-right.pointer_BMX, relation_BMER=-right.relation_BMER
  )
  cost = [
    float(state_losses.sums({"reading": r}, made, [term])[term]) for r in (right, wrong)
  ]
  assert 0 < cost[0] < 0.1 < cost[1]
  bare = tiny_state.batch()
  assert float(state_losses.sums({"reading": wrong}, bare, [term])[term]) == 0


def test_a_mask_decoded_again_as_it_was_costs_nothing():
  held = jnp.zeros((1, 2, 8, 8)).at[:, :, 2:5, 2:5].set(1.0)
  loss = state_losses.again_loss(20 * (2 * held - 1), held)
  np.testing.assert_allclose(loss, 0, atol=1e-4)
  assert (state_losses.again_loss(-20 * (2 * held - 1), held) > 1).all()


def shown():
  """The same; tokens of both slots precede the last [SEG], one slot is missing."""
  made = labelled()
  at = made["image_slot"].at[:, 18:26].set(16 + jnp.arange(8))
  more = {"image_slot": at, "seg_pos": made["seg_pos"].at[:, 1].set(26)}
  return made | more | {"slot_valid": made["slot_valid"].at[:, 1].set(0)}


@pytest.mark.parametrize(
  ("state", "parts"),
  [
    ("dense", ["state"]),
    ("both", ["state", "state_tokens"]),
  ],
)
def test_every_parameter_of_the_state_learns(state, parts):
  made = labelled() if state == "dense" else shown()
  params = tiny_state.params(state)
  cfg = dataclasses.replace(tiny_state.CFG, state=state)

  @jax.jit
  def gradient(learnt):
    def loss(learnt):
      sums, _ = objective(cfg).sums(params | learnt, made, None)
      return sum(sums.values())

    return jax.grad(loss)(learnt)

  found = flatten_dict(gradient({name: params[name] for name in parts}), sep="/")
  still = [path for path, g in found.items() if not jnp.abs(g).max() > 0]
  assert found and not still
