import itertools

import numpy as np
import pytest
from PIL import Image

from miras_jax import drawing

IMAGE = np.full((20, 30, 3), 100, np.uint8)


def size_of(path):
  with Image.open(path) as picture:
    return picture.size


def square():
  mask = np.zeros((20, 30), np.uint8)
  mask[4:14, 5:15] = 1
  return mask


def test_pixels_outside_the_mask_stay_as_they_are():
  drawn = drawing.draw_masks(IMAGE, [square()])
  outside = square() == 0
  np.testing.assert_array_equal(drawn[outside], IMAGE[outside])
  assert (drawn[~outside] != IMAGE[~outside]).any(-1).all()


def test_outline_of_a_square_is_its_rim():
  rim = drawing.outline(square())
  assert rim.sum() == 10 * 4 - 4


def test_two_masks_have_two_colours():
  first, second = np.zeros((2, 20, 30), np.uint8)
  first[:5], second[10:] = 1, 1
  drawn = drawing.draw_masks(IMAGE, [first, second])
  assert (drawn[2, 15] != drawn[15, 15]).any()  # inside the outlines


def luminance(rgb):
  """Relative luminance as WCAG defines it."""
  linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
  return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(a, b):
  low, high = sorted(luminance(np.asarray(c) / 255) for c in (a, b))
  return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("level", [*itertools.product((0, 128, 255), repeat=3)])
def test_outline_stands_out_from_a_picture_of_any_colour(level):
  drawn = drawing.draw_masks(np.full((20, 30, 3), level, np.uint8), [square()])
  rim = drawn[drawing.outline(square(), 2)]
  assert max(contrast(pixel, level) for pixel in rim) > 4.5


def test_mask_of_another_size_is_refused():
  with pytest.raises(ValueError, match="does not fit"):
    drawing.draw_masks(IMAGE, [np.zeros((5, 5))])


def test_saved_mask_is_black_and_white_at_its_own_size(tmp_path):
  drawing.save_mask(tmp_path / "m.png", square())
  with Image.open(tmp_path / "m.png") as picture:
    read = np.asarray(picture)
  np.testing.assert_array_equal(read, square() * 255)


def test_grid_holds_any_text_and_any_aspect(tmp_path):
  tall = np.zeros((90, 10, 3), np.uint8)
  examples = [
    drawing.Example(
      id="a",
      turns=(("שלום \x00 🙂" * 30, "it is [SEG]\n.", ""),) * 5,
      panels=(drawing.Panel("image", IMAGE), drawing.Panel("tall", tall)),
    )
  ]
  drawing.save_grid(tmp_path / "g.png", examples, side=100, text_width=200)
  width, height = size_of(tmp_path / "g.png")
  assert width == 20 + 200 + 2 * 110 and height >= 110


def test_grid_without_examples_is_still_a_picture(tmp_path):
  drawing.save_grid(tmp_path / "g.png", [])
  assert size_of(tmp_path / "g.png")[0] > 0
