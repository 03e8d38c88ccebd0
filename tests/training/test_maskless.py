"""Batches with rows that have no mask: what is skipped, and what each source costs."""

import functools

import jax
import numpy as np
import pytest

from input_pipeline.conversation import plain_texts
from input_pipeline.examples import DataConfig, Examples
from input_pipeline.mixture import mix
from input_pipeline.tokenizer import train_bpe
from miras_jax.config.overrides import with_overrides
from miras_jax.config.settings import LossConfig, MeshConfig
from miras_jax.config.variants import TINY
from miras_jax.models import miras
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.training import step as train_step
from miras_jax.training.objective import MirasObjective
from tests.input_pipeline.fakes import Source, turns
from tests.input_pipeline.test_examples import NoPicture
from tests.training.test_packing_parity import MICRO

NAMES = ("masks", "words")
LOSS = LossConfig(token_ce=1.0, mask_bce=2.0, dice=1.0, focal=0.5, boundary=0.5)


def plain(model):
  return MirasObjective(model, LOSS, 32)


def of_mixture(model):
  return MirasObjective(model, LOSS, 32, sources=NAMES, skip_maskless=True)


@pytest.fixture(scope="module")
def rows():
  """(masks, words): two examples with a mask and a picture, two with neither."""
  answers = ("It is [SEG].", "It is a word.")
  texts = [t for a in answers for i in range(2) for t in plain_texts(turns(i, a))]
  tokenizer = train_bpe(texts, 400)
  cfg = DataConfig(
    max_len=128, max_masks=1, sam_size=64, aux_size=64, num_image_tokens=16
  )
  source = mix([Source(2), NoPicture(2)], [1, 1], NAMES)
  examples = Examples(source, tokenizer, cfg)
  masks, words = (_stack([examples[i] for i in pair]) for pair in ((0, 1), (2, 3)))
  return masks, words, tokenizer.vocab_size


def _stack(examples):
  return {k: np.stack([x[k] for x in examples]) for k in examples[0]}


def both(rows):
  """A batch of one row with a mask and one without."""
  masks, words, _ = rows
  return {k: np.stack([masks[k][0], words[k][0]]) for k in masks}


@pytest.fixture(scope="module")
def model(rows):
  return miras.Miras(with_overrides(TINY, MICRO | {"llama.vocab_size": rows[2]}))


@pytest.fixture(scope="module")
def params(model):
  shapes = jax.eval_shape(lambda: miras.init_params(model.cfg, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, "f4"), shapes)


@functools.cache
def program(objective):
  """The jitted (params, batch) -> ((loss, metrics), gradient)."""

  def loss(params, batch):
    sums, pairs = objective.sums(params, batch, None)
    counts = objective.counts(batch)
    metrics = train_step._metrics(objective.weights, sums, counts, pairs)
    return metrics["loss"], metrics

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def numbers(objective, params, batch):
  """(metrics, gradient) of the rows of a batch."""
  (_, metrics), grads = jax.device_get(program(objective)(params, batch))
  return metrics, grads


def assert_close(got, want, scale=1.0):
  for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
    np.testing.assert_allclose(a, b, atol=3e-6 * scale)


@pytest.mark.parametrize("kind", ["masks", "words", "both"])
def test_skipping_changes_neither_losses_nor_gradients(rows, model, params, kind):
  batch = {"masks": rows[0], "words": rows[1], "both": both(rows)}[kind]
  want, want_grads = numbers(plain(model), params, batch)
  got, grads = numbers(of_mixture(model), params, batch)
  assert_close({k: got[k] for k in want}, want)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(want_grads))
  assert_close(grads, want_grads, scale)


def test_a_row_without_a_picture_looks_at_no_pixel(rows, model, params):
  words = rows[1]
  loud = words | {k: 255 - words[k] for k in ("image_sam", "image_aux")}
  got, other = (numbers(of_mixture(model), params, batch)[0] for batch in (words, loud))
  assert got["loss"] == other["loss"] > 0


def test_each_source_has_the_loss_that_its_rows_have_alone(rows, model, params):
  masks, words, _ = rows
  got, _ = numbers(of_mixture(model), params, both(rows))
  for name, batch in zip(NAMES, (masks, words), strict=True):
    alone = {k: np.stack([x[0], x[0]]) for k, x in batch.items()}
    want, _ = numbers(plain(model), params, alone)
    np.testing.assert_allclose(got[f"loss/{name}"], want["loss"], rtol=1e-5)
    for term in plain(model).weights:
      np.testing.assert_allclose(got[f"{term}/{name}"], want[term], atol=1e-5)
    assert got[f"examples/{name}"] == 1
  assert got["dice/words"] == 0 < got["dice/masks"]


def test_a_skipped_batch_runs_no_part_of_sam(rows, model, params):
  """Parameters of SAM that are not numbers do no harm where no mask is."""
  broken = params | {"sam": jax.tree.map(lambda x: x * np.nan, params["sam"])}
  loss = {
    name: numbers(of_mixture(model), broken, batch)[0]["loss"]
    for name, batch in zip(NAMES, rows[:2], strict=True)
  }
  assert np.isfinite(loss["words"]) and np.isnan(loss["masks"])


@pytest.mark.slow
def test_devices_that_share_a_batch_agree_on_what_is_skipped(rows, model, params):
  mesh = mesh_lib.make_mesh(MeshConfig(data=2), jax.devices()[:2])
  objective = of_mixture(model)
  with jax.set_mesh(mesh):
    sums = jax.jit(lambda params, batch: objective.sums(params, batch, None)[0])
    for batch in (rows[1], both(rows)):
      placed = jax.device_put(batch, sharding.batch_shardings(mesh, batch))
      got = jax.device_get(sums(params, placed))
      want, _ = numbers(objective, params, batch)
      np.testing.assert_allclose(got["dice"], want["dice"], rtol=1e-4)
