"""Answers with masks: prompt tokens in, new tokens and mask logits out.

What a conversation has said stays in a static KV cache on the device. A turn is three
compiled programs: `prefill` reads the tokens that the cache has not seen, whole or in
parts, `decode` adds one token to every row until all have ended, `read` makes the masks
of the [SEG] among them. Images are encoded by a program of their own, once a
conversation. A token is read when the next one is wanted: the last of an answer by the
next turn, with its question.

The state of each step is kept, and [SEG] reads it by the rule of training: think of the
row (last prompt token, first new token, second, ...) as a sequence; `SegPrompt` sees
just that, positions counted from the last prompt token.

B rows, P tokens to read, G new tokens, S cache slots, M masks, D width, H W low
resolution mask rows and columns.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from miras_jax.inference import mask_decoding, showing
from miras_jax.inference.sampling import Sampling, pick
from miras_jax.inference.segs import find_segs
from miras_jax.models import llama
from miras_jax.models.attention import cache_mask, segment_mask
from miras_jax.parallel import sharding

MOST_PIXELS = 2 * 1024**2  # of images that a device encodes at a time


class State(NamedTuple):
  """What a batch of conversations has on the device.

  length_B: tokens of the prompts in the cache. Of the turn under way: step_B, how many
  tokens are new, tokens_BG, states_BGD [B, G + 1, D], the state that produced each of
  them and perhaps one more; done_B: nothing is to be added.
  """

  cache: llama.attention.KvCache
  length_B: jax.Array
  step_B: jax.Array
  done_B: jax.Array
  tokens_BG: jax.Array
  states_BGD: jax.Array


class Rows(NamedTuple):
  """What a turn reads: tokens_BP and image_slot_BP, right-padded, count_B of them; they
  follow the first start_B tokens in the cache. A row of count 0 says nothing. whole_B:
  the answer begins after these, and not after more that are still to be read."""

  tokens_BP: jax.Array
  image_slot_BP: jax.Array
  start_B: jax.Array
  count_B: jax.Array
  whole_B: jax.Array


def encode_images(model, params, batch) -> dict:
  """{"image_tokens" [B, N, D], "sam" [B, h, w, C]} of the images of a batch, their
  `valid_hw` for a model that looks at earlier masks, and a `slot_table` for one whose
  language model reads them: no mask is there yet.

  A device encodes MOST_PIXELS at a time, whatever the batch.
  """
  encoded = _encoded(model, params, batch)
  if not model.cfg.slot_tokens:
    return encoded
  return encoded | {"slot_table": showing.nothing(model, params, encoded)}


def _encoded(model, params, batch):
  more = {} if model.cfg.state == "none" else {"valid_hw": batch["valid_hw"]}
  call = _call(model, params)
  tokens = functools.partial(call, method="image_tokens")
  features = functools.partial(call, method="sam_features")
  if model.cfg.encoder == "dual":
    return {
      "image_tokens": _in_parts(tokens, batch["image_aux"]),
      "sam": _in_parts(features, batch["image_sam"], batch["valid_hw"]),
    } | more
  sam_BHWC = _in_parts(features, batch["image_sam"], batch["valid_hw"])
  views = batch["image_aux"], sam_BHWC, batch["valid_hw"]
  return {"image_tokens": _in_parts(tokens, *views), "sam": sam_BHWC} | more


def _in_parts(encode, image_BHWC, *more):
  """encode(image_BHWC, *more), in sub-batches of a bounded size.

  Each part has as many rows of every shard of the batch, which stay where they are.
  """
  (B, H, W, _), shards = image_BHWC.shape, sharding.batch_shards(len(image_BHWC))
  most = max(1, MOST_PIXELS // max(1, H * W))  # "sam_only" has no such view
  rows = max(n for n in range(1, B // shards + 1) if B // shards % n == 0 and n <= most)
  parts = B // (shards * rows)
  if parts == 1:
    return sharding.constrain(encode(image_BHWC, *more), "rows")

  def cut(x):
    x = x.reshape(shards, parts, rows, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(parts, shards * rows, *x.shape[3:])

  out = jax.lax.map(lambda part: encode(*part), tuple(map(cut, (image_BHWC, *more))))
  out = out.reshape(parts, shards, rows, *out.shape[2:]).swapaxes(0, 1)
  return sharding.constrain(out.reshape(B, *out.shape[3:]), "rows")


def laid_out(state):
  """The state on the mesh that is set, the same way after each stage."""
  rows = {
    name: sharding.constrain(value, "rows")
    for name, value in state._asdict().items()
    if name != "cache"
  }
  cache = jax.tree.map(lambda x: sharding.constrain(x, "cache"), state.cache)
  return State(cache=cache, **rows)


def new_state(model, B, slots, max_new_tokens) -> State:
  """Conversations that have said nothing."""
  state = State(
    cache=llama.init_cache(model.cfg.llama, B, slots, model.dtype),
    length_B=jnp.zeros(B, jnp.int32),
    step_B=jnp.zeros(B, jnp.int32),
    done_B=jnp.ones(B, bool),
    tokens_BG=jnp.zeros((B, max_new_tokens), jnp.int32),
    states_BGD=jnp.zeros((B, max_new_tokens + 1, model.cfg.llama.width), model.dtype),
  )
  return laid_out(state)


def prefill(
  model, params, state: State, encoded, rows: Rows, ids, *, fresh=False
) -> State:
  """Reads the tokens of a turn; rows that say something are then ready to answer.

  fresh: all of these begin at the first token, so that none looks into the cache.
  """
  slots, speaks_B = _slots(state.cache), rows.count_B > 0
  index_B = jnp.where(speaks_B, rows.start_B, slots)  # past the end: writes nothing
  x_BPD = _call(model, params)(
    rows.tokens_BP,
    rows.image_slot_BP,
    encoded["image_tokens"],
    encoded.get("slot_table"),
    method="embed",
  )
  positions_BP = index_B[:, None] + jnp.arange(rows.tokens_BP.shape[1])
  last_B = jnp.maximum(rows.count_B - 1, 0)
  hidden_B1D, cache = _extend(
    model, params, x_BPD, positions_BP, state.cache, index_B, last_B, fresh=fresh
  )
  first_B = jnp.where(speaks_B, 0, state.states_BGD.shape[1])
  state = state._replace(
    cache=cache,
    length_B=jnp.where(speaks_B, rows.start_B + rows.count_B, state.length_B),
    step_B=jnp.where(speaks_B, 0, state.step_B),
    done_B=jnp.where(speaks_B, ~rows.whole_B, state.done_B),
    tokens_BG=jnp.where(speaks_B[:, None], ids.pad, state.tokens_BG),
    states_BGD=_set(state.states_BGD, first_B, hidden_B1D[:, 0]),
  )
  return laid_out(state)


def prefill_row(
  model, params, state: State, encoded, rows: Rows, ids, row, *, fresh=False
) -> State:
  """`prefill` of one row (data, not shape), with Rows of a B of 1: what others say
  costs nothing here."""

  def one(x, axis=0):
    return jax.lax.dynamic_slice_in_dim(x, row, 1, axis)

  def put(x, new, axis=0):
    return jax.lax.dynamic_update_slice_in_dim(x, new, row, axis)

  cache = jax.tree.map(lambda x: one(x, 1), state.cache)
  part = State(cache, *map(one, state[1:]))
  part = prefill(
    model, params, part, jax.tree.map(one, encoded), rows, ids, fresh=fresh
  )
  cache = jax.tree.map(lambda x, new: put(x, new, 1), state.cache, part.cache)
  return laid_out(State(cache, *map(put, state[1:], part[1:])))


def decode(
  model, params, state: State, encoded, ids, sampling: Sampling, limit
) -> State:
  """Adds up to `limit` tokens (data, not shape) to each row that is not done."""
  stop_B = jnp.minimum(state.step_B + limit, state.tokens_BG.shape[1])
  call = _call(model, params)

  def active(state):
    return ~state.done_B & (state.step_B < stop_B)

  def add_token(state, active_B):
    step_B = state.step_B
    state_B1D = jnp.take_along_axis(state.states_BGD, step_B[:, None, None], axis=1)
    logits_BV = call(state_B1D, method="logits")[:, 0]
    token_B = jnp.where(active_B, pick(logits_BV, sampling, step_B), ids.pad)
    at_B = jnp.where(active_B, step_B, state.tokens_BG.shape[1])
    return state._replace(
      step_B=step_B + active_B,
      done_B=state.done_B | (active_B & (token_B == ids.eos)),
      tokens_BG=_set(state.tokens_BG, at_B, token_B),
    )

  def read_and_add(state):
    active_B = active(state)
    state = _read_last(model, params, state, encoded, active_B)
    return add_token(state, active_B)

  def loop(state):
    return jax.lax.while_loop(lambda x: active(x).any(), read_and_add, state)

  cache = state.cache  # not through the branches of `cond`, which would copy it
  state = state._replace(cache=None)
  first_B = active(state) & (state.step_B == 0)
  state = jax.lax.cond(
    first_B.any(), lambda state: add_token(state, first_B), lambda state: state, state
  )
  state = loop(state._replace(cache=cache))
  if model.cfg.seg_prompt.seg_state == "at":
    state = _read_last_seg(model, params, state, encoded, ids)
  return laid_out(state)


def _read_last(model, params, state, encoded, active_B) -> State:
  """Reads the last new token of the rows that are active."""
  last_B = jnp.maximum(state.step_B - 1, 0)
  token_B1 = jnp.take_along_axis(state.tokens_BG, last_B[:, None], axis=1)
  no_image_B1 = jnp.full_like(token_B1, -1)
  x_B1D = _call(model, params)(
    token_B1, no_image_B1, encoded["image_tokens"], method="embed"
  )
  index_B = jnp.where(active_B, state.length_B + last_B, _slots(state.cache))
  hidden_B1D, cache = _extend(
    model, params, x_B1D, index_B[:, None], state.cache, index_B
  )
  at_B = jnp.where(active_B, last_B + 1, state.states_BGD.shape[1])
  states_BGD = _set(state.states_BGD, at_B, hidden_B1D[:, 0])
  return state._replace(cache=cache, states_BGD=states_BGD)


def _read_last_seg(model, params, state, encoded, ids) -> State:
  """The state *at* a [SEG] that took an answer's last place, which nothing has read."""
  full_B = ~state.done_B & (state.step_B == state.tokens_BG.shape[1])
  ends_B = full_B & (state.tokens_BG[:, -1] == ids.seg)

  def at_last():
    return _read_last(model, params, state, encoded, ends_B).states_BGD

  states_BGD = jax.lax.cond(ends_B.any(), at_last, lambda: state.states_BGD)
  return state._replace(states_BGD=states_BGD)


def read(
  model,
  params,
  state: State,
  encoded,
  ids,
  first=0,
  hints=None,
  slots=None,
  *,
  max_masks,
) -> dict:
  """What the rows have answered in their turn, a dict:

  tokens [B, G]          new tokens, `</s>` included where there was one, then pad
  num_tokens [B]         how many they are
  ended [B]              whether the last of them is `</s>`
  states [B, G + 1, D]   state that produced each token; what follows is of no use
  num_seg [B]            how many [SEG] were generated; M of them get a mask
  seg_valid [B, M]       1 where a slot has a [SEG]
  seg_at [B, M]          index of that [SEG] among the new tokens
  mask_logits [B, M, H, W], iou [B, M]   zeros from the slot on that no row has

  first: number (data, not shape) of the [SEG] from which on M get their mask.
  hints: what a user has pointed at, see `Sam.masks_from_text`.
  slots: earlier masks, see `memory.stack`, for a model that looks at them; None: none.
  """
  call = _call(model, params)
  segs = find_segs(state.tokens_BG, ids, max_masks, first)
  obj_pos_BM = jnp.where(segs.obj_BM >= 0, segs.obj_BM + 1, -1)
  prompt_BMC = call(
    state.states_BGD, segs.seg_BM + 1, obj_pos_BM, segs.valid_BM, method="prompts"
  )

  decode, inputs = mask_decoding.decoder(
    call, state.states_BGD, segs, encoded, prompt_BMC, hints, slots
  )
  mask_logits_BMHW, iou_BM = mask_decoding.masks(decode, inputs, segs.valid_BM)
  return {
    "tokens": state.tokens_BG,
    "num_tokens": state.step_B,
    "ended": state.done_B,
    "states": state.states_BGD,
    "num_seg": segs.count_B,
    "seg_valid": segs.valid_BM,
    "seg_at": segs.seg_BM,
    "mask_logits": mask_logits_BMHW,
    "iou": iou_BM,
  }


def read_row(
  model, params, state: State, encoded, ids, row, hints=None, slots=None, *, max_masks
):
  """`read` of one row (data, not shape), with a B of 1, that of `slots` too."""

  def one(x):
    return jax.lax.dynamic_slice_in_dim(x, row, 1)

  parts = {k: one(v) for k, v in state._asdict().items() if k != "cache"}
  state = State(cache=None, **parts)  # nothing is read from it here
  encoded = jax.tree.map(one, encoded)
  return read(model, params, state, encoded, ids, 0, hints, slots, max_masks=max_masks)


def put_row(model, params, encoded, one, row):
  """Encodings with those of one image, a B of 1, in place of what a row had."""

  def put(x, new):
    x = jax.lax.dynamic_update_slice_in_dim(x, new, row, 0)
    return sharding.constrain(x, "rows")

  return jax.tree.map(put, encoded, one)


def stop_row(model, params, state: State, row) -> State:
  """Nothing is added to a row's answer any more."""
  return laid_out(state._replace(done_B=state.done_B.at[row].set(True)))


def generate(model, params, batch, encoded, ids, *, max_new_tokens, max_masks) -> dict:
  """Answers prompts greedily, in one program: what `read` returns.

  `batch`: right-padded prompt rows, `tokens`, `segments` (0 is padding), `image_slot`,
  all [B, T] int32, positions counted from 0. `encoded`: from `encode_images`.
  """
  B, T = batch["tokens"].shape
  state = new_state(model, B, T + max_new_tokens, max_new_tokens)
  rows = Rows(
    batch["tokens"],
    batch["image_slot"],
    jnp.zeros(B, jnp.int32),
    (batch["segments"] > 0).sum(1),
    jnp.ones(B, bool),
  )
  state = prefill(model, params, state, encoded, rows, ids, fresh=True)
  greedy = Sampling.greedy(B)
  state = decode(model, params, state, encoded, ids, greedy, max_new_tokens)
  return read(model, params, state, encoded, ids, max_masks=max_masks)


def _call(model, params):
  return functools.partial(model.apply, {"params": params})


def _slots(cache):
  return jax.tree.leaves(cache)[0].shape[3]


def _extend(
  model, params, x_BTD, positions_BT, cache, index_B, only_B=None, *, fresh=False
):
  if fresh:
    mask_BTS = segment_mask(jnp.ones_like(positions_BT))
  else:
    mask_BTS = cache_mask(index_B, x_BTD.shape[1], _slots(cache))
  return _call(model, params)(
    x_BTD, positions_BT, cache, index_B, mask_BTS, only_B, method="extend"
  )


def _set(x_BG, at_B, value_B):
  """x with one entry of each row replaced; an index past the end replaces none."""
  rows_B = jnp.arange(len(at_B))
  return x_BG.at[rows_B, at_B].set(value_B.astype(x_BG.dtype), mode="drop")
