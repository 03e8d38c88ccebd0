"""Masks on SAM's canvas: by area, nothing lost, alike from an array and an RLE."""

import numpy as np
import pytest

from input_pipeline import mask_canvas, mask_ops


def lengths(pixels, cells):
  """[cells, pixels]: how much of each pixel lies in each cell of an axis."""
  ends = np.arange(cells + 1)[:, None] * (pixels / cells)
  inside = np.clip(ends - np.arange(pixels), 0, 1)
  return np.diff(inside, axis=0)


def cover(mask_HW, rows, columns):
  """Share of each cell that is set, by its definition."""
  height, width = mask_HW.shape
  covered = lengths(height, rows) @ mask_HW @ lengths(width, columns).T
  return covered / (height / rows) / (width / columns)


def blob(height, width, middle, radii):
  y, x = np.mgrid[:height, :width]
  return ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2 < 1


@pytest.mark.parametrize(
  "middle, radii",
  [
    ((130, 200), (40, 33)),
    ((150, 210), (140, 200)),
    ((3, 4), (9, 9)),
    ((299, 421), (50, 9)),
  ],
  ids=["inside", "much of the image", "first corner", "last corner"],
)
def test_a_cell_is_set_when_half_of_it_is(middle, radii):
  holes = np.random.default_rng(0).random((300, 422)) < 0.45
  mask_HW = blob(300, 422, middle, radii) & ~holes  # as 71 x 100: no side divides
  made_SS = mask_canvas.mask_to_canvas(mask_HW, 100)
  share_hw = cover(mask_HW, 71, 100)
  sure = np.abs(share_hw - 0.5) > 1 / 500
  np.testing.assert_array_equal(made_SS[:71][sure], (share_hw > 0.5)[sure])
  assert not made_SS[71:].any()


@pytest.mark.parametrize("size", [16, 100, 700])
@pytest.mark.parametrize("radii", [(3, 5), (40, 90), (150, 200)])
def test_an_rle_gives_what_the_array_gives(size, radii):
  mask_HW = blob(300, 422, (140, 211), radii).astype(np.uint8)
  found = mask_canvas.rle_to_canvas(mask_ops.encode_rle(mask_HW), size)
  np.testing.assert_array_equal(found, mask_canvas.mask_to_canvas(mask_HW, size))
  assert found.any()


@pytest.mark.parametrize("size", [16, 100, 700])
@pytest.mark.parametrize("height, width", [(20, 30), (300, 422)])
def test_an_rle_of_nothing_stays_empty(height, width, size):
  assert not mask_canvas.rle_to_canvas(mask_ops.empty_rle(height, width), size).any()


def test_two_pixels_far_apart_do_not_vanish():
  mask_HW = np.zeros((600, 900))
  mask_HW[5, 7] = mask_HW[590, 880] = 1
  assert mask_canvas.mask_to_canvas(mask_HW, 90).sum() == 1


def test_an_rle_that_is_none_is_refused():
  with pytest.raises(ValueError, match="runs"):
    mask_canvas.rle_to_canvas({"size": [4, 4], "counts": [3]}, 8)


def test_mask_shrinks_by_majority_of_area():
  mask = np.zeros((8, 8))
  mask[:4, :4] = 1
  mask[0, 7] = 1  # a quarter of one canvas pixel
  expected = np.zeros((4, 4))
  expected[:2, :2] = 1
  np.testing.assert_array_equal(mask_canvas.mask_to_canvas(mask, 4), expected)


def test_mask_of_one_pixel_survives_shrinking():
  mask = np.zeros((500, 300), bool)
  mask[402, 151] = True
  canvas = mask_canvas.mask_to_canvas(mask, 50)
  np.testing.assert_array_equal(np.argwhere(canvas), [[40, 15]])


def test_empty_mask_stays_empty():
  assert not mask_canvas.mask_to_canvas(np.zeros((500, 300)), 50).any()


def test_mask_enlarges_without_soft_edges():
  canvas = mask_canvas.mask_to_canvas(np.eye(3), 6)
  np.testing.assert_array_equal(canvas, np.kron(np.eye(3), np.ones((2, 2))))


def test_a_pixel_of_a_smaller_mask_is_set_from_half_its_area_on():
  mask = np.zeros((20, 20), bool)
  mask[:5, :10] = True  # 50 of the 100 of the first
  mask[:7, 10:17] = True  # 49 of the second
  np.testing.assert_array_equal(mask_canvas.mask_to_canvas(mask, 2), [[1, 0], [0, 0]])
