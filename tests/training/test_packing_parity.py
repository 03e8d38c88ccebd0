"""A packed row trains as its conversations would alone (DESIGN section 3, Packing)."""

import dataclasses

import jax
import numpy as np
import pytest

from input_pipeline import packing
from input_pipeline.compact import Rows
from input_pipeline.conversation import plain_texts
from input_pipeline.examples import DataConfig, Examples
from input_pipeline.tokenizer import train_bpe
from miras_jax.config.overrides import with_overrides
from miras_jax.config.settings import LossConfig
from miras_jax.config.variants import TINY
from miras_jax.models import miras
from miras_jax.training.objective import MirasObjective
from miras_jax.training.step import total_loss
from tests.input_pipeline.test_packing import Packable, turns

MICRO = {
  "clip.depth": 2,
  "sam_encoder.depth": 1,
  "sam_encoder.global_layers": (),
  "sam_decoder.depth": 1,
}


@pytest.fixture(scope="module")
def tokenizer():
  return train_bpe([t for i in range(3) for t in plain_texts(turns(i))], 400)


class TwoMasks(Packable):
  """Each conversation goes on from its mask."""

  def load(self, i):
    record = super().load(i)
    turns, targets = 2 * record.turns, 2 * record.targets
    return dataclasses.replace(record, turns=turns, targets=targets)


def batches(tokenizer, source, **shapes):
  """Rows of one conversation, and the same ones in one row."""
  cfg = DataConfig(sam_size=64, aux_size=64, num_image_tokens=16, **shapes)
  rows = packing.PackedDataset(source, Rows.of([tuple(range(len(source)))]))
  alone = Examples(source, tokenizer, cfg)
  together = Examples(rows, tokenizer, cfg)
  singles = _stack([alone[i] for i in range(len(source))])
  return singles, _stack([together[0]])


def _stack(examples):
  return {k: np.stack([x[k] for x in examples]) for k in examples[0]}


@pytest.mark.parametrize("state", ["none", "tokens"])
def test_loss_and_gradients_are_those_of_the_conversations_alone(tokenizer, state):
  cfg = with_overrides(TINY, MICRO | {"llama.vocab_size": tokenizer.vocab_size})
  cfg, answer = dataclasses.replace(cfg, state=state), "The thing is [SEG], as you see."
  source, shapes = Packable(3, answer=answer), {"max_len": 192, "max_masks": 3}
  if state != "none":
    source, shapes = TwoMasks(2, answer=answer), {"max_len": 224, "max_masks": 4}
    shapes |= {"slot_side": cfg.mask_side, "slot_tokens": cfg.slot_tokens}
  alone, together = batches(tokenizer, source, **shapes)
  loss = LossConfig(
    token_ce=1.0, mask_bce=2.0, dice=1.0, dice_scale=1.0, state_mask=0.0
  )
  objective = MirasObjective(miras.Miras(cfg), loss, 32)
  shapes = jax.eval_shape(lambda: miras.init_params(cfg, jax.random.key(0)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, "f4"), shapes)

  @jax.jit
  @jax.value_and_grad
  def value(params, batch):
    sums, _ = objective.sums(params, batch, None)
    return total_loss(objective.weights, sums, objective.counts(batch))

  want, want_grads = value(params, alone)
  got, got_grads = value(params, together)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  scale = max(np.abs(g).max() for g in jax.tree.leaves(want_grads))
  for a, b in zip(*map(jax.tree.leaves, (got_grads, want_grads)), strict=True):
    np.testing.assert_allclose(a, b, atol=3e-6 * scale)
