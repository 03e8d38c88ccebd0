"""`encoder`: which parts a model has, what reaches them, what they cost."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from input_pipeline import batch_table
from miras_jax.config.overrides import with_overrides
from miras_jax.config.run import ModelChoice
from miras_jax.config.settings import LossConfig
from miras_jax.config.variants import TINY, VARIANTS
from miras_jax.errors import UserError
from miras_jax.models import flops, miras, trees
from miras_jax.parallel import sharding
from miras_jax.training.objective import MirasObjective
from tests.training.test_packing_parity import MICRO

LEAN = ("shared", "sam_only")
GONE = {
  "dual": set(),
  "shared": {"convnext"},
  "sam_only": {"clip", "convnext", "mining"},
}


def shapes_of(cfg):
  return jax.eval_shape(functools.partial(miras.init_params, cfg), jax.random.key(0))


@pytest.mark.parametrize("encoder", GONE)
def test_a_model_has_the_parts_that_its_encoder_needs(encoder):
  dual = shapes_of(VARIANTS["7b"])
  shapes = shapes_of(dataclasses.replace(VARIANTS["7b"], encoder=encoder))
  assert dual.keys() - shapes.keys() == GONE[encoder]
  for path in trees.paths_of(shapes):
    sharding.spec_for(path)


@pytest.mark.parametrize("encoder, pixels", [("shared", 336), ("sam_only", 0)])
def test_the_second_view_is_as_small_as_what_looks_at_it(encoder, pixels):
  cfg = dataclasses.replace(VARIANTS["7b"], encoder=encoder)
  assert miras.batch_sizes(cfg)["A"] == pixels
  assert cfg.num_image_tokens == VARIANTS["7b"].num_image_tokens


def test_the_number_of_tokens_of_sam_alone_can_be_chosen():
  cfg = with_overrides(VARIANTS["7b"], {"encoder": "sam_only", "token_grid": 16})
  assert cfg.num_image_tokens == 256


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"encoder": "one"}, "unknown model.encoder='one'; there are dual, shared"),
    ({"overrides": {"token_grid": 4}}, "encoder='sam_only'"),
    ({"encoder": "sam_only", "overrides": {"token_grid": 9}}, "SAM has 8"),
    ({"encoder": "sam_only", "overrides": {"token_grid": -1}}, "SAM has 8"),
    ({"overrides": {"encoder": "shared"}}, "--config.model.encoder"),
  ],
)
def test_an_encoder_that_there_is_not_is_one_line(changes, words):
  with pytest.raises(UserError, match=words):
    ModelChoice(**changes)


def example(cfg, *, masks):
  rng = np.random.default_rng(1)
  batch = jax.tree.map(np.array, miras.dummy_batch(cfg, batch_size=2, length=24))
  for name in ("image_sam", "image_aux"):
    batch[name] = rng.integers(0, 256, batch[name].shape, dtype=np.uint8)
  batch["tokens"] = rng.integers(0, 500, (2, 24)).astype(np.int32)
  batch["image_slot"][:, 1:17] = np.arange(16)
  batch["positions"][:] = np.arange(24)
  batch["segments"][:], batch["loss_mask"][:] = 1, 1
  batch["valid_hw"] = np.array([[64, 40], [48, 64]], np.int32)
  batch["seg_pos"][:], batch["seg_valid"][:] = 20, masks
  batch["masks"][:, :, 8:30, 4:30] = masks
  return batch


@functools.cache
def world(encoder):
  """(config, {view: objective}, parameters, jitted sums and gradients of sums)."""
  cfg = dataclasses.replace(with_overrides(TINY, MICRO), encoder=encoder)
  loss = LossConfig(token_ce=1.0, mask_bce=2.0)
  objective = MirasObjective(
    miras.Miras(cfg, view="center_crop"), loss, 32, skip_maskless=True
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: 0.1 * rng.standard_normal(x.shape, "f4"), shapes_of(cfg)
  )

  def total(params, batch):
    sums, _ = objective.sums(params, batch, None)
    return sums["token_ce"] + sums["mask_bce"], sums

  return cfg, params, jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.mark.parametrize("encoder", LEAN)
def test_words_alone_train_all_that_image_tokens_are_made_of(encoder):
  """No mask is due, so that what reaches SAM's encoder came through the tokens."""
  cfg, params, program = world(encoder)
  _, grads = program(params, example(cfg, masks=0))
  made_of = {"sam", "projector"} | (
    {"clip", "mining"} if encoder == "shared" else set()
  )
  for part in made_of:
    part_grads = grads[part]["encoder"] if part == "sam" else grads[part]
    assert max(np.abs(g).max() for g in jax.tree.leaves(part_grads)) > 1e-6, part
  assert not any(np.any(g) for g in jax.tree.leaves(grads["sam"]["decoder"]))


def test_every_matrix_of_mining_is_trained():
  cfg, params, program = world("shared")
  _, grads = program(params, example(cfg, masks=1))
  for name in ("query_proj", "key_proj", "value_proj"):
    assert np.abs(grads["mining"][name]["kernel"]).max() > 1e-7, name


@pytest.mark.parametrize("encoder", LEAN)
def test_features_of_a_cache_stand_in_for_pixels(encoder):
  cfg, params, program = world(encoder)
  batch = example(cfg, masks=1)
  (want, _), _ = program(params, batch)
  apply = functools.partial(
    miras.Miras(cfg, view="center_crop").apply, {"params": params}
  )
  seen = batch["image_sam"], batch["valid_hw"]
  batch["sam_features"] = jax.jit(functools.partial(apply, method="sam_features"))(
    *seen
  )
  kept = batch_table.names(["sam_features"])
  (found, _), _ = program(params, {k: batch[k] for k in kept})
  np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize("encoder", LEAN)
def test_a_smaller_encoder_saves_what_it_leaves_out(encoder):
  dual, lean = (
    flops.forward_units(dataclasses.replace(VARIANTS["7b"], encoder=e), 1024, 4)
    for e in ("dual", encoder)
  )
  parts = {unit.group for unit in dual} - {unit.group for unit in lean}
  assert parts == GONE[encoder]
  assert sum(u.flops for u in lean) < sum(u.flops for u in dual)
  assert sum(u.group == "sam/encoder" for u in lean) == (
    sum(u.group == "sam/encoder" for u in dual)
  )


def test_masks_need_no_sam_of_their_own_where_tokens_have_run_it():
  shared = dataclasses.replace(TINY, encoder="shared")
  assert "sam/encoder" in flops.of_masks(TINY)
  assert "sam/encoder" not in flops.of_masks(shared)
