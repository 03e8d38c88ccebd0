"""State tokens: what the language model reads of earlier masks."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.model import SLOT_TOKENS
from miras_jax.models import miras
from miras_jax.models.state.encode import Picture, means_of_tokens
from miras_jax.models.state.tokens import EVERYWHERE, StateTokens
from tests.models.state import tiny_state

CFG = dataclasses.replace(tiny_state.CFG, state="tokens")
D, C = CFG.llama.width, CFG.sam_decoder.width
MODEL = StateTokens(CFG)
RNG = np.random.default_rng(0)
IMAGE_BND = RNG.standard_normal((2, CFG.num_image_tokens, D), np.float32)
PICTURE = Picture(
  IMAGE_BND,
  RNG.standard_normal((2, CFG.sam_encoder.grid, CFG.sam_encoder.grid, C), np.float32),
  jnp.full((2, 2), CFG.sam_encoder.image_size),
)
MASKS = jnp.asarray(tiny_state.boxes(2) / 255, jnp.float32)
ALL, MODELS = jnp.ones((2, 2), jnp.int32), jnp.zeros((2, 2), jnp.int32)


@functools.cache
def fresh():
  return MODEL.init(jax.random.key(0), MASKS, ALL, MODELS, PICTURE)["params"]


def random(params):
  rng = np.random.default_rng(3)
  return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), params)


def tokens(params, masks=MASKS, valid=ALL, origin=MODELS):
  """[B, E, J, D]"""
  out = MODEL.apply({"params": params}, masks, valid, origin, PICTURE)
  return np.asarray(out).reshape(2, 2, SLOT_TOKENS, D)


def test_at_the_start_a_mask_is_the_mean_of_the_image_tokens_inside():
  grid = CFG.image_grid
  corner = jnp.zeros_like(MASKS).at[..., : CFG.mask_side // 2, : CFG.mask_side // 2]
  got = tokens(fresh(), corner.set(1.0))
  cells = IMAGE_BND.reshape(2, grid, grid, D)[:, : grid // 2, : grid // 2]
  want = cells.reshape(2, -1, D).mean(1)
  for inside in (0, 2, 3):
    np.testing.assert_allclose(got[:, 0, inside], want, atol=0.02)


@pytest.mark.parametrize("grid", [4, 24])
def test_a_mask_of_one_cell_is_not_lost_in_the_picture(grid):
  cfg = SimpleNamespace(image_grid=grid, sam_encoder=CFG.sam_encoder)
  cell = jnp.zeros((1, 1, 2 * grid, 2 * grid)).at[..., :2, :2].set(1.0)
  image = jnp.zeros((1, grid**2, 1)).at[:, 0].set(1.0)
  picture = Picture(image, None, PICTURE.valid_hw_B2[:1])
  inside, _ = means_of_tokens(
    cfg, cell, 0 * cell, picture, view="letterbox", floor=EVERYWHERE
  )
  np.testing.assert_allclose(inside, 1.0, atol=0.02)


def test_an_empty_mask_and_a_missing_one_start_as_the_mean_of_the_picture():
  mean = IMAGE_BND.mean(1)[:, None]
  empty = tokens(fresh(), jnp.zeros_like(MASKS))
  np.testing.assert_allclose(empty[:, 0], np.repeat(mean, 4, 1), atol=1e-3)
  missing = tokens(fresh(), valid=0 * ALL)
  np.testing.assert_allclose(missing[:, 0], np.repeat(mean, 4, 1), atol=1e-5)


def test_a_missing_mask_says_nothing_of_what_it_was():
  params = random(fresh())
  one = tokens(params, valid=ALL.at[:, 1].set(0))
  other = tokens(params, MASKS.at[:, 1].set(1.0), ALL.at[:, 1].set(0))
  np.testing.assert_array_equal(one, other)
  assert np.abs(one[:, 1] - tokens(params)[:, 1]).min(0).max() > 0.1


@pytest.mark.parametrize("change", ["mask", "origin"])
def test_tokens_differ_where_masks_do_and_nowhere_else(change):
  params = random(fresh())
  changes = {
    "mask": {"masks": MASKS.at[:, 1].set(MASKS[:, 1, ::-1])},
    "origin": {"origin": MODELS.at[:, 1].set(1)},
  }[change]
  was, now = tokens(params), tokens(params, **changes)
  np.testing.assert_allclose(was[:, 0], now[:, 0], atol=1e-5)
  assert np.abs(was[:, 1] - now[:, 1]).max() > 0.1


@functools.cache
def _model(state):
  cfg = dataclasses.replace(CFG, state=state)
  init = functools.partial(miras.init_params, cfg)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape, np.float32)),
    jax.eval_shape(init, jax.random.key(0)),
  )
  apply = jax.jit(lambda batch: miras.Miras(cfg).apply({"params": params}, batch))
  return params, apply


def shown(slots=2):
  """A batch that shows its first earlier mask before its second [SEG]."""
  made = tiny_state.batch(slots=slots)
  at = np.array(made["image_slot"])
  at[:, 19 : 19 + SLOT_TOKENS] = CFG.num_image_tokens + np.arange(SLOT_TOKENS)
  seg = jnp.asarray([[18, 23]] * 2)
  return made | {"image_slot": jnp.asarray(at), "seg_pos": seg}


@pytest.mark.parametrize("state", ["tokens", "both"])
def test_what_is_shown_changes_what_comes_after_and_nothing_before(state):
  _, apply = _model(state)
  batch = shown()
  was = apply(batch)
  now = apply(batch | {"slot_masks": batch["slot_masks"][:, :, ::-1]})
  moved = np.abs(was["hidden"] - now["hidden"]).max(-1)
  assert (moved[:, :19] < 1e-5).all() and (moved[:, 23] > 1e-3).all()
  moved = np.abs(was["mask_logits"] - now["mask_logits"]).max((2, 3))
  assert (moved[:, 0] < 1e-5).all() and (moved[:, 1] > 1e-4).all()


def test_a_model_of_both_has_the_parameters_of_each():
  both, one, other = (set(_model(s)[0]) for s in ("both", "tokens", "dense"))
  assert both == one | other and "state" not in one and "state_tokens" not in other


def test_a_row_that_shows_none_is_that_of_the_model_without_state():
  params, apply = _model("tokens")
  bare = {k: v for k, v in params.items() if k != "state_tokens"}
  cfg = dataclasses.replace(CFG, state="none")
  plain = jax.jit(miras.Miras(cfg).apply)({"params": bare}, tiny_state.batch())
  got = apply(tiny_state.batch())
  np.testing.assert_allclose(got["hidden"], plain["hidden"], atol=1e-5)
  np.testing.assert_allclose(got["mask_logits"], plain["mask_logits"], atol=1e-6)
