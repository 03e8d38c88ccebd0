import re

import cv2
import numpy as np
import pytest

from miras_jax.evaluation.report import pictures
from miras_jax.evaluation.report.pictures import Album, Layer

GREY = np.full((60, 80, 3), 90, np.uint8)


def square(size=64, low=16, high=48):
  mask = np.zeros((size, size), np.uint8)
  mask[low:high, low:high] = 1
  return mask


def filled(path):
  """The mask of an SVG path of `outline_path`."""
  mask = np.zeros((pictures.UNITS, pictures.UNITS), np.uint8)
  for part in path.strip("Mz").split("zM"):
    steps = [[int(n) for n in step.split()] for step in part.split("l")]
    cv2.fillPoly(mask, [np.cumsum(steps, axis=0)], 1)
  return mask


@pytest.mark.parametrize("size", [64, 512, 1500])
def test_outline_encloses_the_mask_at_any_size(size):
  mask = square(size, size // 4, 3 * size // 4)
  found = filled(pictures.outline_path(mask))
  wanted = square(pictures.UNITS, 128, 384)
  assert (found & wanted).sum() / (found | wanted).sum() > 0.97


def test_outline_of_noise_is_short_and_not_empty():
  noise = np.random.default_rng(0).random((700, 900)) < 0.5
  assert 0 < len(pictures.outline_path(noise)) <= pictures.MOST_PATH


def test_speck_is_drawn():
  mask = np.zeros((2000, 1000), np.uint8)
  mask[700, 300] = 1
  assert filled(pictures.outline_path(mask)).any()


def test_hole_is_a_line_of_its_own():
  mask = square()
  mask[28:36, 28:36] = 0
  assert pictures.outline_path(mask).count("M") == 2


def test_empty_mask_has_no_outline():
  assert pictures.outline_path(np.zeros((9, 9))) == ""


def test_every_outline_has_a_dark_and_a_light_line():
  album = Album()
  for dashed in (False, True):
    text = album.picture(album.add(GREY), [Layer(square(), dashed=dashed)], "x")
    assert 'class="dark' in text and 'class="light' in text
    assert ("dashed" in text) == dashed and ('class="tint' in text) != dashed


def test_key_that_is_known_is_not_embedded_again():
  album = Album()
  assert [album.add(GREY, key) for key in ("a", "b", "a", None)] == [0, 1, 0, 2]
  page = "".join(album.picture(i, [], "x") for i in range(3))
  assert album.definitions(10**6, page).count("data:image/jpeg") == 3


def test_photograph_that_the_page_does_not_show_is_not_embedded():
  album = Album()
  pages = [album.picture(album.add(GREY), [], "x") for _ in range(2)]
  found = album.definitions(10**6, pages[1])
  assert 'id="photo1"' in found and 'id="photo0"' not in found


def test_photographs_shrink_until_they_fit():
  album = Album()
  rng = np.random.default_rng(0)
  photo = album.add(rng.integers(0, 256, (600, 800, 3), np.uint8))
  page = album.picture(photo, [], "x")
  room = len(album.definitions(10**9, page))
  small = album.definitions(room // 8, page)
  assert "data:image/jpeg" in small and len(small) <= room // 8


def test_number_of_a_mask_stands_inside_it():
  album = Album()
  text = album.picture(album.add(GREY), [Layer(square(), number="2")], "x")
  x, y = (int(n) for n in re.search(r'x="(\d+)" y="(\d+)"', text).groups())
  assert filled(pictures.outline_path(square()))[y, x]
