"""What a part draws is its block of what the whole would draw."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.parallel import part_keys
from miras_jax.parallel.part_keys import of_part

KEY = jax.random.key(7)


@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 3), (6,)])
def test_parts_side_by_side_are_the_whole(shape):
  whole = jax.random.normal(KEY, (4 * shape[0], *shape[1:]))
  parts = [jax.random.normal(of_part(KEY, i), shape) for i in range(4)]
  np.testing.assert_array_equal(jnp.concatenate(parts), whole)


def test_keys_made_of_it_are_of_the_same_part():
  def draw(key):
    key = jax.random.fold_in(jax.random.split(key, 3)[1], 5)
    return key, lambda n: jax.random.uniform(key, (n, 2))

  whole = draw(KEY)[1](8)
  ours = draw(of_part(KEY, 1))[1](4)
  np.testing.assert_array_equal(ours, whole[4:])


def test_dropout_of_a_part_drops_what_the_whole_drops():
  drop = nn.Dropout(0.3, deterministic=False)
  x = jnp.ones((8, 16))
  whole = drop.apply({}, x, rngs={"dropout": KEY})
  ours = drop.apply({}, x[4:], rngs={"dropout": of_part(KEY, 1)})
  np.testing.assert_array_equal(ours, whole[4:])
  assert 0 < (ours == 0).sum() < ours.size


@pytest.mark.parametrize("part, size", [(3, 2**31), (65535, 2**32 - 1), (5, 7)])
def test_counting_goes_past_32_bits(part, size):
  high, low = part_keys._product(jnp.uint32(part), size)
  assert (int(high) << 32) + int(low) == part * size
