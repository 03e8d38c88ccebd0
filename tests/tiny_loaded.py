"""A `Loaded` with a real, tiny model of random weights that says [SEG] now and then."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from miras_jax.config import variants
from miras_jax.config.overrides import with_overrides
from miras_jax.inference.load import Loaded
from miras_jax.models import miras
from tests import talker

CHANGES = {
  "llama.width": 32, "llama.head_dim": 8, "llama.mlp_width": 48, "llama.depth": 2,
  "llama.lora_rank": 4,
  "clip.image_size": 16, "clip.depth": 2, "sam_encoder.image_size": 32,
  "sam_encoder.global_layers": (0,), "sam_encoder.depth": 1,
}  # fmt: skip


@functools.cache
def loaded(state="none") -> Loaded:
  """Without ConvNeXt, with LoRA of random values; stacked layers."""
  tokenizer = talker.tokenizer()
  cfg = with_overrides(
    variants.VARIANTS["tiny"], CHANGES | {"llama.vocab_size": tokenizer.vocab_size}
  )
  cfg = dataclasses.replace(cfg, convnext=None, state=state, state_slots=3)
  data = talker.data_config(
    sam_size=32,
    aux_size=16,
    num_image_tokens=cfg.num_image_tokens,
    slot_side=cfg.mask_side if state != "none" else 0,
    slots=cfg.state_slots,
    slot_tokens=cfg.slot_tokens,
  )
  params = jax.tree.map(jnp.asarray, _params(cfg, tokenizer.ids.seg))
  return Loaded(miras.Miras(cfg), params, tokenizer, data)


def _params(cfg, seg):
  """Random leaves; token t is mostly followed by t + 1, each eighth by [SEG]."""
  init = functools.partial(miras.init_params, cfg)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda leaf: 0.15 * rng.normal(size=leaf.shape).astype(np.float32),
    jax.eval_shape(init, jax.random.key(0)),
  )
  for part in ("seg_prompt", "sam"):  # so that a state of the wrong step shows
    params[part] = jax.tree.map(lambda leaf: 2 * leaf, params[part])
  if "state_tokens" in params:  # as loud as the words
    params["state_tokens"] = jax.tree.map(lambda x: 20 * x, params["state_tokens"])
  llm = params["llm"]
  embedding_VD = 20 * llm["embed"]["embedding"]
  llm["embed"]["embedding"] = embedding_VD
  llm["lm_head"]["kernel"] += np.roll(embedding_VD, 1, axis=0).T
  llm["lm_head"]["kernel"][:, seg] += 2 * embedding_VD[::8].sum(0)
  llm["final_norm"]["scale"] += 1
  return params
