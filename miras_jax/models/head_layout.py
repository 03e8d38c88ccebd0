"""Between rows of all heads and heads of all rows, with rotary positions: TPU kernels.

A projection gives [B, T, N * H], attention kernels want [B, N, T, H]. Left to the
compiler, that change of layout and the rotation of half a head cost a dozen passes over
queries and keys a layer, float32 copies among them, and layouts of weights that suit
the change. Here each is read once and written once, forward and backward.

B batch, T tokens, N heads, H head width, E extra channels, W = H + E.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from miras_jax.config.lanes import LANES

# Tokens of a tile, the first that divides T and has at most as many numbers a head.
BLOCKS, MOST = (1024, 768, 512, 384, 256, 128), 2**17


def fits(length, head_dim):
  """Whether the kernels can be had: whole tiles of tokens and of a head's channels."""
  return length % LANES == 0 and head_dim % LANES == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def split_heads(x_BTD, table, extra_BTE, num_heads, interpret):
  """[B, T, N * H] -> [B, N, T, H + E]: rotated, and `extra_BTE` behind every head.

  table: (cosine, signed sine), each [B, T, H] float32, of `rotation`, or None. The
  extra channels may be None (E = 0); they and the table have no gradient.
  """
  return _split(x_BTD, table, extra_BTE, num_heads, interpret)


def rotation(cos_BTF, sin_BTF, scale=1.0):
  """The tables of half the channels (`attention.rope_table`) for whole heads."""
  cos_BTH = jnp.concatenate([cos_BTF, cos_BTF], axis=-1)
  sin_BTH = jnp.concatenate([-sin_BTF, sin_BTF], axis=-1)
  return cos_BTH * scale, sin_BTH * scale


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def join_heads(x_BNTH, interpret):
  """[B, N, T, H] -> [B, T, N * H]."""
  return _join(x_BNTH, None, x_BNTH.shape[-1], interpret)


def _split(x_BTD, table, extra_BTE, num_heads, interpret):
  B, T, D = x_BTD.shape
  H, N = D // num_heads, num_heads
  E = 0 if extra_BTE is None else extra_BTE.shape[-1]

  def kernel(x_ref, *refs):
    *rest, out_ref = refs
    x = x_ref[0]
    if table is not None:
      x = _rotated(x, rest[0][0], rest[1][0])
    out_ref[0, 0, :, :H] = x.astype(out_ref.dtype)
    if E:
      out_ref[0, 0, :, H:] = rest[-1][0]

  block = _block(T, H)
  more = [*(table or ()), *([] if extra_BTE is None else [extra_BTE])]
  return pl.pallas_call(
    kernel,
    grid=(B, T // block, N),
    in_specs=[_in_row(block, H), *(_of_all(block, x.shape[-1]) for x in more)],
    out_specs=_of_head(block, H + E),
    out_shape=jax.ShapeDtypeStruct((B, N, T, H + E), x_BTD.dtype),
    interpret=interpret,
  )(x_BTD, *more)


def _join(x_BNTW, table, width, interpret):
  """The first `width` channels of every head, rotated back."""
  B, N, T, _ = x_BNTW.shape

  def kernel(x_ref, *refs):
    *rest, out_ref = refs
    x = x_ref[0, 0]
    if table is not None:
      x = _rotated_back(x, rest[0][0], rest[1][0])
    out_ref[0] = x.astype(out_ref.dtype)

  block = _block(T, width)
  more = table or ()
  return pl.pallas_call(
    kernel,
    grid=(B, T // block, N),
    in_specs=[_of_head(block, width), *(_of_all(block, width) for _ in more)],
    out_specs=_in_row(block, width),
    out_shape=jax.ShapeDtypeStruct((B, T, N * width), x_BNTW.dtype),
    interpret=interpret,
  )(x_BNTW, *more)


def _rotated(x, cos, sin):
  x = x.astype(jnp.float32)
  return x * cos + pltpu.roll(x, x.shape[-1] // 2, 1) * sin


def _rotated_back(x, cos, sin):
  x = x.astype(jnp.float32)
  return x * cos + pltpu.roll(x * sin, x.shape[-1] // 2, 1)


def _block(length, width):
  fits = (b for b in BLOCKS if length % b == 0 and b * width <= MOST)
  return next(fits, LANES)


def _in_row(block, width):
  return pl.BlockSpec((1, block, width), lambda b, t, n: (b, t, n))


def _of_all(block, width):
  return pl.BlockSpec((1, block, width), lambda b, t, n: (b, t, 0))


def _of_head(block, width):
  return pl.BlockSpec((1, 1, block, width), lambda b, t, n: (b, n, t, 0))


def _split_forward(x_BTD, table, extra_BTE, num_heads, interpret):
  width = x_BTD.shape[-1] // num_heads
  out = _split(x_BTD, table, extra_BTE, num_heads, interpret)
  return out, (table, extra_BTE, width)


def _split_backward(num_heads, interpret, kept, grad_BNTW):
  table, extra_BTE, width = kept
  zeros = functools.partial(jax.tree.map, jnp.zeros_like)
  return _join(grad_BNTW, table, width, interpret), zeros(table), zeros(extra_BTE)


def _join_forward(x_BNTH, interpret):
  return join_heads(x_BNTH, interpret), x_BNTH.shape[1]


def _join_backward(interpret, num_heads, grad_BTD):
  return (_split(grad_BTD, None, None, num_heads, interpret),)


split_heads.defvjp(_split_forward, _split_backward)
join_heads.defvjp(_join_forward, _join_backward)
