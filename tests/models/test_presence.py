"""The logit of whether what is meant is in the image at all, and what it empties."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from miras_jax.config import overrides as config
from miras_jax.config import variants
from miras_jax.models.miras import Miras, init_params
from miras_jax.models.sam_decoder import ABSENT
from tests.models.test_fine_features import picture_batch

PLAIN = config.with_overrides(
  variants.VARIANTS["tiny"], {"convnext": None, "clip.depth": 2}
)
PRESENCE = dataclasses.replace(
  PLAIN, sam_decoder=dataclasses.replace(PLAIN.sam_decoder, presence=True)
)


@functools.cache
def random_params(cfg):
  """Not those of `init`, which takes longer to compile than all that they are for."""
  shapes = jax.eval_shape(lambda: init_params(cfg, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, "f4"), shapes)


@pytest.fixture(scope="module")
def params():
  return random_params(PRESENCE)


def saying(params, logit):
  """The parameters, with a decoder that gives every mask the logit `logit`."""
  head = params["sam"]["decoder"]["presence_head"]
  last = {"kernel": 0 * head["layers_2"]["kernel"], "bias": jnp.array([logit])}
  decoder = params["sam"]["decoder"] | {"presence_head": head | {"layers_2": last}}
  return params | {"sam": params["sam"] | {"decoder": decoder}}


@jax.jit
def masks(params, hints=None):
  """Logits of two prompts about a picture."""
  batch, cfg = picture_batch(PRESENCE), PRESENCE.sam_decoder
  apply = functools.partial(Miras(PRESENCE).apply, {"params": params})
  sam_BHWC = apply(batch["image_sam"], batch["valid_hw"], method="sam_features")
  return apply(sam_BHWC, jnp.ones((2, 2, cfg.width)), hints, method="masks")[0]


def test_published_decoders_have_no_such_token(params):
  plain = jax.eval_shape(lambda: init_params(PLAIN, jax.random.key(0)))
  more = set(flatten_dict(params, sep="/")) - set(flatten_dict(plain, sep="/"))
  assert {name.split("/")[2] for name in more} == {"presence_head", "presence_token"}
  assert all(name.startswith("sam/decoder/") for name in more)


def test_what_is_not_there_has_no_pixel(params):
  assert (masks(saying(params, -0.1)) == ABSENT).all()


def test_what_is_there_keeps_its_mask(params):
  shown = masks(saying(params, 0.1))
  assert (shown > ABSENT).all() and shown.std() > 0


def test_where_a_user_points_there_is_something(params):
  point = jnp.full((2, 1, 1, 2), 20.0), jnp.ones((2, 1, 1), jnp.int32)
  assert (masks(saying(params, -0.1), {"points": point}) > ABSENT).all()


def test_losses_see_the_mask_that_is_not_shown(params):
  model, batch = Miras(PRESENCE), picture_batch(PRESENCE)
  hidden = jnp.ones((*batch["tokens"].shape, PRESENCE.llama.width))
  made = jax.jit(lambda p: model.apply({"params": p}, batch, hidden, method="made_of"))(
    saying(params, -3.0)
  )
  decoded = made["decoded"]
  np.testing.assert_allclose(decoded.present_BM, -3.0, rtol=1e-6)
  assert (decoded.logits > ABSENT).all()
