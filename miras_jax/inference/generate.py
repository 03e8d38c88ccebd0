"""Greedy generation with masks: prompt rows in, tokens and mask logits out.

`Generator.generate` is one compiled program: prefill of the prompts into a static KV
cache, a `lax.while_loop` that adds one token to every row until all have ended, then
the masks of the [SEG] tokens among them. Images are encoded by a program of their own,
so that the turns of a conversation share one encoding.

The state of each step is kept, and [SEG] reads it by the rule of training: think of the
row (last prompt token, first new token, second, ...) as a sequence; `SegPrompt` sees
just that, positions counted from the last prompt token.

B rows, T prompt slots, G new tokens, S = T + G cache slots, M masks, D width, H W low
resolution mask rows and columns.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from input_pipeline import batch_table
from miras_jax.models import llama
from miras_jax.models.attention import cache_mask


class Generator:
  """A model ready to answer: parameters, token ids, static limits.

  `ids` needs `eos`, `pad`, `seg`, `obj` (`input_pipeline.tokenizer.TokenIds`). Each
  shape of batch compiles once.
  """

  def __init__(self, model, params, ids, *, max_new_tokens=64, max_masks=4):
    if max_new_tokens < 1 or max_masks < 1:
      raise ValueError(f"{max_new_tokens=} and {max_masks=} must be at least 1")
    self.model, self.params, self.ids = model, params, ids
    self.max_new_tokens, self.max_masks = max_new_tokens, max_masks
    self._encode = jax.jit(functools.partial(encode_images, model))
    limits = {"max_new_tokens": max_new_tokens, "max_masks": max_masks}
    self._generate = jax.jit(functools.partial(generate, model, **limits))

  def encode(self, batch):
    """Image part of the batch (`ENCODER_INPUTS`) -> encodings."""
    views = {k: batch[k] for k in batch_table.ENCODER_INPUTS}
    return self._encode(self.params, views)

  def generate(self, batch, encoded):
    """Prompt part of the batch -> what `generate` returns, on the device."""
    prompt = {k: batch[k] for k in batch_table.prompt_names()}
    return self._generate(self.params, prompt, encoded, self.ids)


def encode_images(model, params, batch) -> dict:
  """{"image_tokens" [B, N, D], "sam" [B, h, w, C]} of the images of a batch."""
  call = functools.partial(model.apply, {"params": params})
  return {
    "image_tokens": call(batch["image_aux"], method="image_tokens"),
    "sam": call(batch["image_sam"], batch["valid_hw"], method="sam_features"),
  }


def generate(model, params, batch, encoded, ids, *, max_new_tokens, max_masks) -> dict:
  """Answers each prompt greedily.

  `batch`: right-padded prompt rows, `tokens`, `positions`, `segments` (0 is padding),
  `image_slot`, all [B, T] int32. `encoded`: from `encode_images`. Returns a dict:

    tokens [B, G]          new tokens, `</s>` included where there was one, then pad
    num_tokens [B]         how many they are
    ended [B]              whether the last of them is `</s>`
    states [B, G + 1, D]   state that produced each token; one more after the last
    num_seg [B]            how many [SEG] were generated; only the first M get a mask
    seg_valid [B, M]       1 where a slot has a [SEG]
    mask_logits [B, M, H, W], iou [B, M]   zeros when no row has a [SEG]
  """
  call = functools.partial(model.apply, {"params": params})
  decoded = _decode(model, call, batch, encoded, ids, max_new_tokens)
  tokens_BG = decoded["tokens"]
  segs = find_segs(tokens_BG, ids, max_masks)
  obj_pos_BM = jnp.where(segs.obj_BM >= 0, segs.obj_BM + 1, -1)
  prompt_BMC = call(
    decoded["states"], segs.seg_BM + 1, obj_pos_BM, segs.valid_BM, method="prompts"
  )

  def masks():
    return call(encoded["sam"], prompt_BMC, method="masks")

  def nothing():
    return jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: masks())
    )

  # Most turns of most conversations ask for no mask: do not decode any then.
  mask_logits_BMHW, iou_BM = jax.lax.cond(segs.valid_BM.any(), masks, nothing)
  return decoded | {
    "num_seg": segs.count_B,
    "seg_valid": segs.valid_BM,
    "mask_logits": mask_logits_BMHW,
    "iou": iou_BM,
  }


class _Loop(NamedTuple):
  """What the while loop carries: step, state to read next, results, cache."""

  step: jax.Array
  done_B: jax.Array
  tokens_BG: jax.Array
  states_BGD: jax.Array
  cache: llama.attention.KvCache


def _decode(model, call, batch, encoded, ids, max_new_tokens):
  """The first four results of `generate`."""
  B, T = batch["tokens"].shape
  slots = T + max_new_tokens
  length_B = (batch["segments"] > 0).sum(1)
  last_B1 = (length_B - 1)[:, None]
  position_B1 = jnp.take_along_axis(batch["positions"], last_B1, axis=1)

  def extend(x_BTD, positions_BT, cache, index_B):
    mask_BTS = cache_mask(index_B, x_BTD.shape[1], slots)
    return call(x_BTD, positions_BT, cache, index_B, mask_BTS, method="extend")

  x_BTD = call(
    batch["tokens"], batch["image_slot"], encoded["image_tokens"], method="embed"
  )
  cache = llama.init_cache(model.cfg.llama, B, slots, model.dtype)
  hidden_BTD, cache = extend(x_BTD, batch["positions"], cache, jnp.zeros(B, jnp.int32))
  state_BD = jnp.take_along_axis(hidden_BTD, last_B1[..., None], axis=1)[:, 0]
  states_BGD = jnp.zeros((B, max_new_tokens + 1, state_BD.shape[-1]), state_BD.dtype)

  def going(loop):
    return (loop.step < max_new_tokens) & ~loop.done_B.all()

  def add_token(loop):
    g = loop.step
    state_B1D = jax.lax.dynamic_slice_in_dim(loop.states_BGD, g, 1, axis=1)
    token_B = call(state_B1D, method="logits")[:, 0].argmax(-1).astype(jnp.int32)
    token_B = jnp.where(loop.done_B, ids.pad, token_B)
    no_image_B1 = jnp.full((B, 1), -1, jnp.int32)
    x_B1D = call(token_B[:, None], no_image_B1, encoded["image_tokens"], method="embed")
    hidden_B1D, cache = extend(x_B1D, position_B1 + 1 + g, loop.cache, length_B + g)
    return _Loop(
      step=g + 1,
      done_B=loop.done_B | (token_B == ids.eos),
      tokens_BG=loop.tokens_BG.at[:, g].set(token_B),
      states_BGD=jax.lax.dynamic_update_slice_in_dim(
        loop.states_BGD, hidden_B1D, g + 1, axis=1
      ),
      cache=cache,
    )

  loop = jax.lax.while_loop(
    going,
    add_token,
    _Loop(
      step=jnp.zeros((), jnp.int32),
      done_B=jnp.zeros(B, bool),
      tokens_BG=jnp.full((B, max_new_tokens), ids.pad, jnp.int32),
      states_BGD=states_BGD.at[:, 0].set(state_BD),
      cache=cache,
    ),
  )
  is_eos_BG = loop.tokens_BG == ids.eos
  return {
    "tokens": loop.tokens_BG,
    "num_tokens": jnp.where(loop.done_B, is_eos_BG.argmax(1) + 1, loop.step),
    "ended": loop.done_B,
    "states": loop.states_BGD,
  }


class Segs(NamedTuple):
  """Where the first M [SEG] of each row are; `obj_BM` is -1 without an [OBJ]."""

  seg_BM: jax.Array
  obj_BM: jax.Array
  valid_BM: jax.Array
  count_B: jax.Array


def find_segs(tokens_BG, ids, max_masks):
  """Finds the first `max_masks` [SEG] of each row, and for each its [OBJ]: the last one
  between it and the [SEG] before it."""
  g_G = jnp.arange(tokens_BG.shape[1])
  is_seg_BG = tokens_BG == ids.seg
  count_B = is_seg_BG.sum(1)
  seg_BM = jnp.argsort(~is_seg_BG, axis=1, stable=True)[:, :max_masks]
  seg_BM = _pad_slots(seg_BM, max_masks)
  valid_BM = (jnp.arange(max_masks) < count_B[:, None]).astype(jnp.int32)
  before_BM = jnp.pad(seg_BM[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  is_obj_B1G = (tokens_BG == ids.obj)[:, None]
  between_BMG = (g_G > before_BM[..., None]) & (g_G < seg_BM[..., None])
  obj_BM = jnp.where(is_obj_B1G & between_BMG, g_G, -1).max(-1)
  return Segs(seg_BM, obj_BM, valid_BM, count_B)


def _pad_slots(index_BM, max_masks):
  """More mask slots than new tokens is legal; the extra slots are never valid."""
  return jnp.pad(index_BM, ((0, 0), (0, max_masks - index_BM.shape[1])))
