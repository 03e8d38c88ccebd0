"""SAM's features lie where the patches of the other view of the picture lie."""

import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import image_ops
from miras_jax.models.sam_grid import area_weights, on_grid

SIDE, CANVAS = 8, 64


def of_canvas(view_SSC):
  """Means of a canvas under each of SIDE x SIDE cells: features that show the place."""
  blocks = view_SSC.astype(np.float32).reshape(SIDE, CANVAS // SIDE, SIDE, -1, 3)
  return jnp.asarray(blocks.mean((1, 3)))[None]


def grid_of(image_HWC, cells, view):
  canvas_SSC, valid_hw = image_ops.sam_view(image_HWC, CANVAS)
  hw_B2 = jnp.asarray([valid_hw])
  found = on_grid(
    of_canvas(canvas_SSC), cells, view=view, valid_hw_B2=hw_B2, canvas=CANVAS
  )
  return np.asarray(found[0]), valid_hw


def ramp(height, width):
  """Red grows downwards, green to the right, blue says: picture."""
  rows = np.linspace(0, 255, height)[:, None].repeat(width, 1)
  columns = np.linspace(0, 255, width)[None].repeat(height, 0)
  return np.stack([rows, columns, np.full_like(rows, 255)], -1).astype(np.uint8)


def test_a_grid_of_the_same_side_is_the_map_itself():
  features = jnp.arange(2 * SIDE * SIDE * 3.0).reshape(2, SIDE, SIDE, 3)
  assert on_grid(features, SIDE, view="letterbox", valid_hw_B2=None, canvas=64) is (
    features
  )


def test_a_coarser_grid_is_the_mean_of_whole_blocks():
  features = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype("f4")
  found = on_grid(
    jnp.asarray(features), 4, view="letterbox", valid_hw_B2=None, canvas=CANVAS
  )
  want = features.reshape(2, 4, 2, 4, 2, 3).mean((2, 4))
  np.testing.assert_allclose(found, want, atol=1e-6)


@pytest.mark.parametrize("count, start, extent", [(5, 0, 8), (12, 0, 8), (4, 1.5, 5)])
def test_the_shares_of_a_part_are_of_its_span_and_sum_to_one(count, start, extent):
  found = area_weights(jnp.full((1, 1), start), jnp.full((1, 1), extent), count, SIDE)
  np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
  middles = (found[0, 0] * (np.arange(SIDE) + 0.5)).sum(-1)
  want = start + (np.arange(count) + 0.5) * extent / count
  np.testing.assert_allclose(middles, want, atol=0.5)


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48), (40, 64)])
@pytest.mark.parametrize("view", ["letterbox", "center_crop"])
def test_each_cell_shows_the_part_of_the_picture_that_its_patch_shows(size, view):
  image, cells = ramp(*size), 4
  found, valid_hw = grid_of(image, cells, view)
  seen = image_ops.aux_view(image, 32, view).astype(np.float32)
  want = seen.reshape(cells, 8, cells, 8, 3).mean((1, 3))
  if view == "letterbox":  # the two views fill their padding with different colours
    rows, columns = (n * cells // CANVAS for n in valid_hw)
    found, want = (x[:rows, :columns] for x in (found, want))
  assert found.size
  np.testing.assert_allclose(found, want, atol=20)  # a cell apart is 64


def test_a_center_crop_sees_no_padding():
  found, _ = grid_of(ramp(48, 96), 4, "center_crop")
  np.testing.assert_allclose(found[..., 2], 255, atol=1e-3)


def test_an_unknown_view_is_refused():
  with pytest.raises(ValueError, match="view 'round'"):
    on_grid(jnp.zeros((1, 8, 8, 3)), 4, view="round", valid_hw_B2=None, canvas=64)
