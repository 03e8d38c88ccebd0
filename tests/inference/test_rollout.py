"""Conversations in batches say what each says alone, with a real tiny model."""

import numpy as np
import pytest

from miras_jax.inference.rollout import Job, Rollout
from tests import tiny_loaded

JOBS = [
  Job(0, ("Where is it?",)),
  Job(1, ("the left half, the right half", "which one", "Where is it? which one")),
  Job(2, ("which one", "the cup")),
]
NEW = 12


def views(image):
  rng = np.random.default_rng(image)
  return {
    "image_sam": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
    "image_aux": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
    "valid_hw": np.array([32, 20 + image], np.int32),
    "original_hw": np.array([64, 40], np.int32),
  }


def said(jobs, batch_size, loaded=None):
  loaded = loaded or tiny_loaded.loaded()
  generator = loaded.generator(NEW)
  return Rollout(loaded, generator, views, batch_size=batch_size).run(jobs)


@pytest.fixture(scope="module")
def together():
  return said(JOBS, 4)


def test_the_model_says_seg(together):
  assert sum(len(answer.logits) for job in together for answer in job) >= 3


def test_a_batch_says_what_each_conversation_says_alone(together):
  for found, alone in zip(together, said(JOBS, 1), strict=True):
    assert [a.text for a in found] == [a.text for a in alone]
    for a, b in zip(found, alone, strict=True):
      np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)
      np.testing.assert_allclose(a.iou, b.iou, atol=1e-4)
