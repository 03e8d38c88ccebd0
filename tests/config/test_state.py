"""The choice of a segmentation state: off by default, one clear line where wrong."""

import pytest

from miras_jax.config.run import ModelChoice
from miras_jax.errors import UserError


def test_it_is_off_by_default():
  assert ModelChoice().build().state == "none"


def test_what_is_not_there_is_refused_with_what_is():
  with pytest.raises(UserError, match="some.*none.*tokens.*dense.*both"):
    ModelChoice(state="some")


@pytest.mark.parametrize(
  ("state", "dense", "count"),
  [("none", False, 0), ("tokens", False, 4), ("dense", True, 0), ("both", True, 4)],
)
def test_each_says_who_sees_earlier_masks(state, dense, count):
  cfg = ModelChoice(state=state).build()
  assert (cfg.has_dense_state, cfg.slot_tokens) == (dense, count)


@pytest.mark.parametrize("slots", [0, 65])
def test_slots_are_bounded(slots):
  with pytest.raises(UserError, match="state_slots"):
    ModelChoice(state="dense", state_slots=slots)


def test_it_is_no_override():
  with pytest.raises(UserError, match="--config.model.state=VALUE"):
    ModelChoice(overrides={"state": "dense"})
