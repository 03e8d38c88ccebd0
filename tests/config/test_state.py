"""The choice of a segmentation state: off by default, one clear line where wrong."""

import pytest

from miras_jax.config.run import ModelChoice
from miras_jax.errors import UserError


def test_it_is_off_by_default():
  assert ModelChoice().build().state == "none"


@pytest.mark.parametrize("state", ["tokens", "both", "some"])
def test_what_is_not_there_is_refused_with_what_is(state):
  with pytest.raises(UserError, match=f"'{state}' is not there.*none.*dense"):
    ModelChoice(state=state)


@pytest.mark.parametrize("slots", [0, 65])
def test_slots_are_bounded(slots):
  with pytest.raises(UserError, match="state_slots"):
    ModelChoice(state="dense", state_slots=slots)


def test_it_is_no_override():
  with pytest.raises(UserError, match="--config.model.state=VALUE"):
    ModelChoice(overrides={"state": "dense"})
