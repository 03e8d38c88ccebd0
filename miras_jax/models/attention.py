"""Attention: attend(), rotary positions, the segment mask and the KV cache.

B batch, T queries, S keys, N query heads, K key heads, G = N / K query heads that share
a key head, H head width, L layers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from miras_jax.config.model import ATTENTIONS
from miras_jax.models.splash import attend_splash, rope

MAX_BLOCKS, MIN_BLOCK = 8, 64  # of "blocked": how many, and queries in one
PLATFORM = {"splash": "tpu", "cudnn": "gpu"}  # the platform they are made for


def attention_for(implementation, platform, dtype=jnp.bfloat16) -> str:
  """The implementation, or "xla" where it is made for another platform than this or,
  as cuDNN's, for another type than that of the queries."""
  at_home = PLATFORM.get(implementation, platform) == platform
  takes = implementation != "cudnn" or jnp.dtype(dtype).itemsize == 2
  return implementation if at_home and takes else "xla"


def attend(
  q_BTNH,
  k_BSKH,
  v_BSKH,
  *,
  mask=None,
  segments_BT=None,
  rotary=None,
  implementation="xla",
) -> jax.Array:
  """Scaled dot-product attention with grouped queries; returns [B, T, N, H].

  `mask`: bool, True where a query sees a key, broadcastable to [B, 1, T, S]. A query
  that sees nothing gets a finite, meaningless result. `rotary`: of `rope_table`, by
  which queries and keys are still to be rotated.

  `implementation`:
    xla      einsums with a float32 softmax; any shape, any platform.
    blocked  the same in blocks of queries that skip every later key. Needs T == S and
             a causal mask, which it takes on trust.
    jax      `jax.nn.dot_product_attention`.
    cudnn    the same through cuDNN: half precision, only where JAX sees an NVIDIA GPU.
    splash   Pallas kernels for TPU (elsewhere interpreted: slow). T == S; sees what
             `segment_mask(segments_BT)` says and never looks at `mask`.

  Raises ValueError for another name, for head counts that do not divide, and for
  "splash" without `segments_BT`.
  """
  if implementation not in ATTENTIONS:
    raise ValueError(f"attention {implementation!r} is not one of {ATTENTIONS}")
  num_heads, num_kv_heads = q_BTNH.shape[2], k_BSKH.shape[2]
  if num_heads % num_kv_heads:
    raise ValueError(f"{num_heads=} is not a multiple of {num_kv_heads=}")
  if rotary is not None and implementation != "splash":
    q_BTNH, k_BSKH = rope(q_BTNH, *rotary), rope(k_BSKH, *rotary)
  if implementation == "xla":
    return _attend_xla(q_BTNH, k_BSKH, v_BSKH, mask)
  if implementation == "splash":
    if segments_BT is None or q_BTNH.shape[1] != k_BSKH.shape[1]:
      raise ValueError("'splash' attention needs segments_BT and equal T and S")
    return attend_splash(q_BTNH, k_BSKH, v_BSKH, segments_BT, rotary=rotary)
  if implementation == "blocked":
    return _attend_blocked(q_BTNH, k_BSKH, v_BSKH, mask)
  backend = {"jax": "xla", "cudnn": "cudnn"}[implementation]
  return jax.nn.dot_product_attention(
    q_BTNH, k_BSKH, v_BSKH, mask=mask, implementation=backend
  )


def _attend_xla(q_BTNH, k_BSKH, v_BSKH, mask):
  k_BKSH, v_BKSH = k_BSKH.transpose(0, 2, 1, 3), v_BSKH.transpose(0, 2, 1, 3)
  return attend_heads_first(q_BTNH, k_BKSH, v_BKSH, mask)


def attend_heads_first(q_BTNH, k_BKSH, v_BKSH, mask=None) -> jax.Array:
  """ "xla" of `attend` on keys and values as a cache holds them, heads before time."""
  B, T, N, H = q_BTNH.shape
  K, S = k_BKSH.shape[1:3]
  # The group folded into time: two plain batched matrix products, which XLA:CPU runs
  # nearly twice as fast as the same in (B, T, N, H).
  q_BKGTH = (q_BTNH * H**-0.5).transpose(0, 2, 1, 3).reshape(B, K, -1, H)
  logits = jnp.einsum(
    "BKQH,BKSH->BKQS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32
  )
  if mask is not None:
    logits_BKGTS = logits.reshape(B, K, N // K, T, S)
    lowest = jnp.finfo(jnp.float32).min
    logits = jnp.where(mask[:, :, None], logits_BKGTS, lowest).reshape(logits.shape)
  # The softmax divides what comes out: fewer numbers than its T x S weights.
  highest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
  weights = jnp.exp(logits - highest)
  out = jnp.einsum(
    "BKQS,BKSH->BKQH",
    weights.astype(v_BKSH.dtype),
    v_BKSH,
    preferred_element_type=jnp.float32,
  )
  out = (out / weights.sum(-1, keepdims=True)).astype(v_BKSH.dtype)
  return out.reshape(B, N, T, H).transpose(0, 2, 1, 3)


def _attend_blocked(q_BTNH, k_BSKH, v_BSKH, mask):
  T, S = q_BTNH.shape[1], k_BSKH.shape[1]
  if T != S or mask is None:
    raise ValueError(f"'blocked' attention needs a causal mask and {T=} == {S=}")
  mask = jnp.broadcast_to(mask, (*mask.shape[:2], T, S))
  out, block = [], max(MIN_BLOCK, -(-T // MAX_BLOCKS))
  for start in range(0, T, block):
    stop = min(start + block, T)
    out.append(
      _attend_xla(
        q_BTNH[:, start:stop],
        k_BSKH[:, :stop],
        v_BSKH[:, :stop],
        mask[:, :, start:stop, :stop],
      )
    )
  return jnp.concatenate(out, axis=1)


def segment_mask(segments_BT) -> jax.Array:
  """[B, T, T] bool: which key each query sees in a packed row.

  Segment 0 is padding, 1 the only conversation or the prefix that packed conversations
  share, k >= 2 the packed conversation k. A query sees the keys up to its own index
  that belong to its own segment or to segment 1.
  """
  query_BT1, key_B1T = segments_BT[:, :, None], segments_BT[:, None, :]
  T = segments_BT.shape[1]
  causal_TT = jnp.tril(jnp.ones((T, T), bool))
  return causal_TT & (key_B1T > 0) & ((key_B1T == query_BT1) | (key_B1T == 1))


def rope_table(positions_BT, head_dim, *, theta, scaling=None):
  """Cosine and sine of the rotary angles, each [B, T, head_dim / 2] float32."""
  frequency_F = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  if scaling is not None:
    frequency_F = _scale_frequencies(frequency_F, scaling)
  angle_BTF = positions_BT.astype(jnp.float32)[..., None] * frequency_F
  return jnp.cos(angle_BTF), jnp.sin(angle_BTF)


def _scale_frequencies(frequency_F, scaling):
  """`linear` slows every rotation down; `llama3` the slow ones only (Llama 3.1)."""
  slow_F = frequency_F / scaling.factor
  if scaling.kind == "linear":
    return slow_F
  low, high = scaling.low_freq_factor, scaling.high_freq_factor
  turns_F = scaling.original_max_positions * frequency_F / (2 * jnp.pi)
  keep_F = jnp.clip((turns_F - low) / (high - low), 0.0, 1.0)
  return keep_F * frequency_F + (1 - keep_F) * slow_F


class KvCache(NamedTuple):
  """Keys (after rotation) and values of every layer, `S` slots per row.

  Heads come before slots: attention over the cache then copies none of it.
  """

  k_LBKSH: jax.Array
  v_LBKSH: jax.Array


def init_cache(cfg, batch, length, dtype=jnp.float32):
  """An empty cache for `length` positions of a LlamaConfig `cfg`: one of all layers, or
  a tuple of one a layer where these are not stacked."""

  def empty(depth):
    shape = (depth, batch, cfg.num_kv_heads, length, cfg.head_dim)
    return KvCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

  return empty(cfg.depth) if cfg.stacked else tuple(empty(1) for _ in range(cfg.depth))


def write_cache(cache, layer, k_BTKH, v_BTKH, write_index_B, *, fresh=False):
  """Writes T new keys and values of one layer at `write_index_B[b]...` of each row.

  Slots past the end of the cache are dropped: the caller keeps the length in check.
  fresh: every row begins at slot 0 or past the end; one copy in place of a scatter.
  """
  write = _write_first if fresh else _write_anywhere
  write = functools.partial(write, layer=layer, write_index_B=write_index_B)
  return KvCache(write(cache.k_LBKSH, k_BTKH), write(cache.v_LBKSH, v_BTKH))


def _write_anywhere(old_LBKSH, new_BTKH, layer, write_index_B):
  if new_BTKH.shape[:2] == (1, 1):
    # XLA:CPU makes an update in place of a scatter of one index, fuses that into all
    # that reads it and copies the cache for each: a second index, past the end.
    new_BTKH = jnp.concatenate([new_BTKH] * 2, axis=1)
    slot_BT = jnp.stack([write_index_B, jnp.full(1, old_LBKSH.shape[3])], axis=1)
  else:
    slot_BT = write_index_B[:, None] + jnp.arange(new_BTKH.shape[1])
  row_B1 = jnp.arange(len(new_BTKH))[:, None]
  new_BTKH = new_BTKH.astype(old_LBKSH.dtype)
  return old_LBKSH.at[layer, row_B1, :, slot_BT].set(new_BTKH, mode="drop")


def _write_first(old_LBKSH, new_BTKH, layer, write_index_B):
  count = min(new_BTKH.shape[1], old_LBKSH.shape[3])
  old_BKTH = old_LBKSH[layer, :, :, :count]
  new_BKTH = new_BTKH[:, :count].transpose(0, 2, 1, 3).astype(old_LBKSH.dtype)
  kept_BKTH = jnp.where((write_index_B == 0)[:, None, None, None], new_BKTH, old_BKTH)
  return old_LBKSH.at[layer, :, :, :count].set(kept_BKTH)


def cache_mask(write_index_B, num_new, length) -> jax.Array:
  """[B, T, S] bool: new token t of row b sees the slots up to its own.

  Enough for right-padded prompts too: the slots that padding filled lie at or past the
  row's next write index and are overwritten before anything sees them.
  """
  slot_BT = write_index_B[:, None] + jnp.arange(num_new)
  return jnp.arange(length) <= slot_BT[:, :, None]
