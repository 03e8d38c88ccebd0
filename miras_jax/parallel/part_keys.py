"""Random keys under which a part of an array has the numbers that the whole would have.

Inside `jax.shard_map` each device makes arrays of its own rows alone. With a key of
`of_part(key, i)` what it draws is row block `i` of what `key` draws for all rows, so
that dropout is the same however a batch is cut. This holds for arrays whose leading
axis is the rows', or rows and tokens flattened, and for threefry, JAX's default, in its
partitionable form.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend import random as jex_random

_THREEFRY = jex_random.threefry_prng_impl
WORDS = 2  # of a threefry key; the part's number follows them


def of_part(key, part) -> jax.Array:
  """The typed key of block `part` (a scalar, traced or not) of what `key` draws."""
  words = jnp.concatenate([
    jax.random.key_data(key), jnp.asarray(part, jnp.uint32)[None]
  ])  # fmt: skip
  return jax.random.wrap_key_data(words, impl=_IMPL)


def _seed(seed):
  return jnp.append(_THREEFRY.seed(seed), jnp.uint32(0))


def _split(key, shape):
  words = _THREEFRY.split(key[:WORDS], shape)
  part = jnp.broadcast_to(key[WORDS:], (*shape, 1))
  return jnp.concatenate([words, part], axis=-1)


def _fold_in(key, data):
  return jnp.concatenate([_THREEFRY.fold_in(key[:WORDS], data), key[WORDS:]])


def _random_bits(key, bit_width, shape):
  """As threefry's, but counting on from `part` times the array's size."""
  if bit_width > 32 or math.prod(shape) >= 2**32:
    raise NotImplementedError(f"random bits of {bit_width=} in {shape=}")
  high, start = _product(key[WORDS], math.prod(shape))
  low = start + _counter(shape)
  high = high + (low < start).astype(jnp.uint32)
  bits = jex_random.threefry2x32_p.bind(
    *(jnp.broadcast_to(key[i], shape) for i in range(WORDS)), high, low
  )
  return (bits[0] ^ bits[1]).astype(f"uint{bit_width}")


def _counter(shape):
  """0, 1, ... in row-major order; iotas alone, which any partitioner can cut."""
  strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
  counter = jnp.zeros(shape, jnp.uint32)
  for axis, stride in enumerate(strides):
    along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    counter = counter + along * jnp.uint32(stride)
  return counter


def _product(part, size):
  """(high, low) words of a part below 2^16 times a size below 2^32."""
  low_half = part * jnp.uint32(size & 0xFFFF)
  high_half = part * jnp.uint32(size >> 16) + (low_half >> 16)
  return high_half >> 16, part * jnp.uint32(size)


_IMPL = jex_random.define_prng_impl(
  key_shape=(WORDS + 1,),
  seed=_seed,
  split=_split,
  random_bits=_random_bits,
  fold_in=_fold_in,
  name="threefry2x32_of_part",
  tag="fryp",
)
