"""Masks that look at earlier masks: at those they may see, and as today without any."""

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import batch_table
from input_pipeline.slots.relations import SAME
from miras_jax.models import miras
from miras_jax.models.state import prompt
from miras_jax.models.state.encode import own_masks
from tests.models.state import tiny_state
from tests.models.state.tiny_state import CFG, batch, masks


def _without_state():
  weights = {k: v for k, v in tiny_state.params().items() if k != "state"}
  return masks(batch(), "none", weights)


def test_without_slots_masks_are_bit_for_bit_those_of_the_model_without_state():
  bare = {k: v for k, v in batch().items() if k not in batch_table.SLOTS}
  np.testing.assert_array_equal(masks(bare), _without_state())


def test_slots_that_nobody_sees_change_no_mask():
  """But for rounding: the dense prompt is then one for each mask, not for all."""
  np.testing.assert_allclose(masks(batch()), _without_state(), atol=1e-6)


def test_a_mask_sees_the_slots_that_it_may_see_and_no_other():
  seen = batch() | {"slot_seen": jnp.zeros((2, 2, 2), jnp.int32).at[0, 1, 0].set(1)}
  made = masks(seen)
  hidden = masks(seen | {"slot_masks": seen["slot_masks"].at[:, 1].set(0)})
  np.testing.assert_array_equal(made, hidden)
  changed = jnp.abs(made - masks(batch())).max((2, 3)) > 1e-4
  np.testing.assert_array_equal(changed, [[False, True], [False, False]])


def test_slots_beside_a_mask_change_nothing_of_it():
  """So a conversation of a packed row has the masks that it has alone."""
  seen = jnp.zeros((2, 2, 2), jnp.int32).at[:, 1, 0].set(1)
  two = masks(batch() | {"slot_seen": seen})
  one = batch(slots=1)
  alone = masks(one | {"slot_seen": seen[..., :1]})
  np.testing.assert_allclose(two, alone, atol=1e-4)


def test_an_empty_slot_gives_finite_masks():
  empty = jnp.zeros_like(batch()["slot_masks"])
  made = masks(batch() | {"slot_masks": empty, "slot_seen": jnp.ones((2, 2, 2), int)})
  assert jnp.isfinite(made).all()


def test_slots_of_the_models_own_hold_the_masks_that_it_makes_without_slots():
  """Two of five in the first row, none in the second."""
  bare = batch(masks=5, slots=5)
  seen = bare | {"slot_seen": jnp.zeros((2, 5, 5), jnp.int32).at[:, 4, :4].set(1)}
  own = bare["slot_own"].at[0, 1].set(1).at[0, 3].set(3)
  held = jnp.round(255 * jax.nn.sigmoid(masks(bare)[0])).astype("uint8")
  given = seen["slot_masks"].at[0, 1].set(held[1]).at[0, 3].set(held[3])
  expected = masks(seen | {"slot_masks": given})
  np.testing.assert_allclose(masks(seen | {"slot_own": own}), expected, atol=1e-4)
  assert jnp.abs(expected - masks(seen))[0, 4].max() > 1e-3


def test_each_slot_of_the_models_own_gets_the_mask_of_its_own_seg():
  own = jnp.array([[-1, 1, -1, 3, -1], [0, -1, -1, -1, 4], [-1] * 5])
  asked, at = own_masks(own)
  assert asked.shape == (3, 2)
  np.testing.assert_array_equal(asked[:2], [[1, 3], [0, 4]])
  given = jnp.where(own >= 0, jnp.take_along_axis(asked, at, axis=1), -1)
  np.testing.assert_array_equal(given, own)


def test_at_the_start_only_the_same_mask_opens_a_gate():
  params = jax.jit(lambda: miras.init_params(CFG, jax.random.key(0))["state"])()
  gates = np.asarray(params["gates"])
  assert (gates[SAME] == 1).all() and not np.delete(gates, SAME, axis=0).any()
  assert not params["slot_value"]["kernel"].any()


def test_the_latest_slot_has_age_0():
  seen = jnp.array([[[1, 0, 1, 1]]])
  np.testing.assert_array_equal(prompt.ages(seen, 4)[0, 0], [2, 2, 1, 0])


def test_a_slot_that_is_picked_is_the_only_one():
  params, made = tiny_state.params(), batch()
  states = jnp.ones((2, 2, CFG.llama.width))
  slots = prompt.Slots(
    made["slot_masks"] / 255,
    made["slot_origin"],
    jnp.ones((2, 2, 2), jnp.int32),
    jnp.array([1, -1]),
  )
  sam = jnp.ones((2, 8, 8, 64))
  picture = prompt.Picture(jnp.ones((2, 16, CFG.llama.width)), sam, None)
  model = prompt.StatePrompt(CFG)
  reading = model.apply({"params": params["state"]}, states, slots, picture)
  meant, _ = prompt.chances(reading)
  np.testing.assert_allclose(meant[0, 0], [0, 1], atol=1e-6)
  assert (meant[1] > 0).all()
