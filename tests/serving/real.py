"""A tiny random model, for a server and for the Predictor that it is compared with."""

import dataclasses
import functools

import jax
import numpy as np

from input_pipeline.examples import DataConfig
from miras_jax.config.overrides import with_overrides
from miras_jax.inference import load
from miras_jax.models import miras
from tests import talker
from tests.inference import test_generate

QUESTIONS = ("Where is it? which one", "the left half", "cup, cup")
NEW = 24  # tokens of an answer: random weights hardly ever end one


@functools.cache
def loaded(state="none"):
  """A Loaded whose answers vary with the picture and the words, masks included."""
  tokenizer = talker.tokenizer()
  tiny = dataclasses.replace(test_generate.tiny(state=state), state_slots=3)
  cfg = with_overrides(tiny, {"llama.vocab_size": tokenizer.vocab_size})
  batch = miras.dummy_batch(cfg, batch_size=1, length=8)
  data = DataConfig(
    max_len=160,
    max_masks=2,
    sam_size=batch["image_sam"].shape[1],
    aux_size=batch["image_aux"].shape[1],
    num_image_tokens=cfg.num_image_tokens,
    system="",
    slot_side=0 if state == "none" else cfg.mask_side,
    slots=cfg.state_slots,
    slot_tokens=cfg.slot_tokens,
  )
  often = 1.5 if state == "none" else 3.0
  params = varied(test_generate.random_params(cfg), tokenizer.ids.seg, often)
  return load.Loaded(miras.Miras(cfg), params, tokenizer, data)


def varied(params, seg, often=1.5):
  """Random parameters whose greedy answers depend on all of the prompt, some [SEG]."""
  llm = dict(params["llm"])
  llm["layers"] = jax.tree.map(lambda leaf: 3 * leaf, llm["layers"])
  llm["embed"] = jax.tree.map(lambda leaf: leaf / 20, llm["embed"])
  shape = llm["lm_head"]["kernel"].shape
  kernel = np.random.default_rng(5).normal(size=shape).astype(np.float32)
  kernel[:, seg] *= often
  projector = jax.tree.map(lambda leaf: 10 * leaf, params["projector"])
  return params | {"llm": llm | {"lm_head": {"kernel": kernel}}, "projector": projector}


def pictures(count):
  """Random uint8 pictures of several sizes."""
  rng = np.random.default_rng(3)
  sizes = [(24 + 4 * k, 40 - 4 * k, 3) for k in range(count)]
  return [rng.integers(0, 255, size, np.uint8) for size in sizes]
