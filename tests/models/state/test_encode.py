"""What is kept of a mask: its box, border and surroundings, means over its pixels."""

import jax.numpy as jnp
import numpy as np

from miras_jax.models.state import encode


def _box(rows, columns, side=8):
  mask = np.zeros((1, 1, side, side), np.float32)
  mask[..., slice(*rows), slice(*columns)] = 1
  return jnp.asarray(mask)


def test_a_box_is_in_shares_of_the_canvas():
  found = encode.boxes(_box((2, 4), (1, 7)))
  np.testing.assert_allclose(found[0, 0], [1 / 8, 2 / 8, 7 / 8, 4 / 8])


def test_an_empty_mask_has_no_box_and_nothing_around_it():
  box = encode.boxes(_box((0, 0), (0, 0)))
  assert not box.any() and not encode.around(box, 8).any()


def test_the_ring_lies_around_the_box_and_not_in_it():
  mask = _box((3, 5), (3, 5))
  ring = encode.around(encode.boxes(mask), 8)
  assert not (ring * mask).any() and ring[0, 0, 2, 2] == 1 and ring[0, 0, 0, 0] == 0


def test_the_border_is_a_cell_wide_on_both_sides():
  border = encode.border(_box((2, 6), (2, 6)))[0, 0]
  np.testing.assert_array_equal(border[3], [0, 1, 1, 0, 0, 1, 1, 0])


def test_a_mean_is_over_what_is_inside():
  x = jnp.arange(16.0).reshape(1, 4, 4, 1)
  mean = encode.weighted_mean(_box((0, 1), (1, 3), side=4), x)
  np.testing.assert_allclose(mean, [[[1.5]]], rtol=1e-5)
