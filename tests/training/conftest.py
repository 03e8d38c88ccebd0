"""What the toy model needs of the trainer."""

import logging

import pytest

from miras_jax.models import trees


@pytest.fixture
def toy_world(monkeypatch):
  monkeypatch.setitem(trees.TRAINABLE, "toy", (r"^llm/",))
  # `miras train` takes these over; caplog of this and other tests needs them back.
  for name in ("miras_jax", "input_pipeline"):
    monkeypatch.setattr(logging.getLogger(name), "propagate", True)
