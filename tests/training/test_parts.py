"""The stage in which words, points and boxes become masks without a language model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config import overrides as config
from miras_jax.config.settings import LossConfig
from miras_jax.models import miras
from miras_jax.training import parts
from miras_jax.training.objective import MirasObjective
from tests.models.test_presence import PRESENCE, random_params

# As in the quickstart.
CFG = config.with_overrides(PRESENCE, {"seg_prompt.alignment": "published"})

SIDE = 32
USER, NAME = (18, 21), (24, 26)  # tokens of the user's words and of the target's name


@pytest.fixture(scope="module")
def params():
  return random_params(CFG)


def objective(**weights):
  loss = LossConfig(**weights or {"mask_bce": 1.0, "dice": 1.0, "presence": 1.0})
  whole = MirasObjective(miras.Miras(CFG), loss, SIDE)
  return parts.PartsObjective(whole)


def talk(masks=1):
  """A row of one talk: image, the user's words, [OBJ], a name, [SEG]."""
  batch = dict(miras.dummy_batch(CFG, batch_size=2, length=32, max_masks=masks))
  rng = np.random.default_rng(0)
  shape = batch["image_sam"].shape
  slots = np.full((2, 32), -1, np.int32)
  slots[:, : CFG.num_image_tokens] = np.arange(CFG.num_image_tokens)
  answer = np.zeros((2, 32), np.int32)
  answer[:, USER[1] :] = 1
  batch |= {
    "image_sam": rng.integers(0, 256, shape, dtype=np.uint8),
    "tokens": rng.integers(5, 90, (2, 32), dtype=np.int32),
    "image_slot": slots,
    "loss_mask": answer,
    "segments": np.ones((2, 32), np.int32),
    "seg_pos": np.full((2, masks), NAME[1], np.int32),
    "obj_pos": np.full((2, masks), NAME[0] - 1, np.int32),
    "seg_valid": np.ones((2, masks), np.int32),
  }
  masks_BMSS = np.zeros(batch["masks"].shape, np.uint8)
  masks_BMSS[:, :, 10:30, 20:50] = 1
  return batch | {"masks": masks_BMSS}


def placed(batch):
  return jax.tree.map(jnp.asarray, batch)


def changed(batch, span):
  """The batch with other words there."""
  tokens = np.array(batch["tokens"])
  tokens[:, slice(*span)] = (tokens[:, slice(*span)] + 7) % 90
  return batch | {"tokens": tokens}


@pytest.fixture(scope="module")
def logits(params):
  model = miras.Miras(CFG)
  call = functools.partial(model.apply, {"params": params}, method="parts_of")
  return jax.jit(lambda batch, named: call(batch, named).logits)


def test_the_users_words_say_which_mask_is_meant(logits):
  batch, nobody = talk(), np.zeros((2, 1), bool)
  plain = logits(batch, nobody)
  assert np.abs(plain - logits(changed(batch, USER), nobody)).max() > 1e-3
  np.testing.assert_array_equal(plain, logits(changed(batch, NAME), nobody))


def test_a_name_in_the_answer_says_it_in_their_place(logits):
  batch, every = talk(), np.ones((2, 1), bool)
  named = logits(batch, every)
  assert np.abs(named - logits(changed(batch, NAME), every)).max() > 1e-3
  np.testing.assert_array_equal(named, logits(changed(batch, USER), every))


def test_another_talk_of_the_row_says_nothing(logits):
  batch, nobody = talk(), np.zeros((2, 1), bool)
  batch["segments"][:, : USER[0] + 1] = 2
  first = (USER[0], USER[0] + 1)
  same = logits(changed(batch, first), nobody)
  np.testing.assert_array_equal(logits(batch, nobody), same)


def test_only_parts_of_the_mask_and_words_learn(params):
  asked = objective()

  def loss(params):
    return sum(asked.sums(params, placed(talk(6)), jax.random.key(1))[0].values())

  grads = jax.jit(jax.grad(loss))(params)
  moved = {
    name: any(np.abs(g).max() > 0 for g in jax.tree.leaves(part))
    for name, part in (grads | {f"llm {k}": v for k, v in grads["llm"].items()}).items()
  }
  learn = {"sam", "seg_prompt", "llm", "llm embed", "llm final_norm"}
  assert {name for name, any_ in moved.items() if any_} == learn


def test_terms_are_those_of_masks_over_valid_masks():
  batch = talk(3)
  batch["seg_valid"][1, 1:] = 0
  asked = objective(token_ce=1.0, dice=2.0, presence=0.5)
  assert asked.weights == {"dice": 2.0, "presence": 0.5}
  assert {k: float(v) for k, v in asked.counts(batch).items()} == {
    "dice": 4.0, "presence": 4.0
  }  # fmt: skip


def test_a_point_lies_in_its_mask_and_a_box_around_it():
  inside = np.zeros((2, 3, SIDE, SIDE), bool)
  inside[:, :, 4:12, 20:24] = True
  found = jax.device_get(parts._places(jnp.asarray(inside), 2.0, jax.random.key(0)))
  x, y = np.moveaxis(found["points_BP2"], -1, 0)
  assert ((40 <= x) & (x < 48)).all() and ((8 <= y) & (y < 24)).all()
  wide, high = 8, 16
  off = np.abs(found["boxes_BP4"] - [40, 8, 48, 24]) / [wide, high, wide, high]
  assert 0 < off.max() < 0.5


def test_an_empty_mask_is_not_asked_for_by_a_place():
  asked = objective(dice=1.0, presence=0.0)
  batch = talk(6)
  batch["masks"] = 0 * batch["masks"]
  drawn, found = parts._drawn(asked.whole, placed(batch), jax.random.key(0))
  P = found["points_BP2"].shape[1]
  assert P == 1
  np.testing.assert_array_equal(drawn["seg_valid"].sum(1), [6 - P, 6 - P])


def test_few_masks_are_all_asked_for_by_words():
  _, found = parts._drawn(objective().whole, placed(talk(3)), jax.random.key(0))
  assert "points_BP2" not in found
