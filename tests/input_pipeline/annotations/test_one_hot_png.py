"""One PNG a class -> regions."""

import numpy as np
import pytest

from input_pipeline.annotations.one_hot_png import OneHotPng
from tests.input_pipeline.annotations.drawn import (
  DOG,
  HAT,
  assert_masks,
  defect,
  drawn,
  only,
  photo,
  read,
  write_json,
  write_png,
)

BOTH = ("big dog", drawn(DOG)), ("hat", drawn(HAT))


@pytest.mark.parametrize("pattern", ["{0}_{1}.png", "{0}/{1}.png", "{1}/{0}.png"])
@pytest.mark.parametrize("stem", ["a", "img_01", "a_jpg.rf.0f3c"])
def test_three_ways_to_name_the_files(tmp_path, pattern, stem):
  photo(tmp_path / f"images/{stem}.jpg")
  for name, mask_HW in BOTH:
    file = tmp_path / "masks" / pattern.format(stem, name)
    write_png(file, 255 * mask_HW)
  found = only(OneHotPng(), tmp_path)
  assert_masks(found, *BOTH)
  assert not found.instances


@pytest.mark.parametrize("values", [drawn(HAT), drawn(HAT).astype(bool)])
def test_ones_instead_of_255(tmp_path, values):
  photo(tmp_path / "images/a.jpg")
  write_png(tmp_path / "masks/a_hat.png", values)
  assert_masks(only(OneHotPng(), tmp_path), ("hat", drawn(HAT)))


def test_a_name_without_a_file_is_not_in_the_photograph(tmp_path):
  for stem, name, points in (("a", "hat", HAT), ("b", "dog", DOG)):
    photo(tmp_path / f"images/{stem}.jpg")
    write_png(tmp_path / f"masks/{stem}_{name}.png", 255 * drawn(points))
  photos, _ = read(OneHotPng(), tmp_path)
  assert_masks(photos["images/a.jpg"], ("hat", drawn(HAT)))
  assert photos["images/a.jpg"].complete == {"hat", "dog"}


def test_a_list_of_names_says_where_a_name_begins(tmp_path):
  for stem in ("a", "a_old"):
    photo(tmp_path / f"images/{stem}.jpg")
  write_png(tmp_path / "masks/a_old_hat.png", 255 * drawn(HAT))
  write_png(tmp_path / "masks/a_old_old_hat.png", 255 * drawn(DOG))
  write_json(tmp_path / "labels.json", ["hat", "old_hat"])
  photos, lines = read(OneHotPng(), tmp_path)
  wanted = ("hat", drawn(HAT)), ("old_hat", drawn(DOG))
  assert_masks(photos["images/a_old.jpg"], *wanted)
  assert lines == ["images/a.jpg:-: no mask belongs to it"]


def test_a_mask_of_several_values_is_refused(tmp_path):
  photo(tmp_path / "images/a.jpg")
  write_png(tmp_path / "masks/a_hat.png", (drawn(HAT) + drawn(DOG)).astype(np.uint8))
  assert defect(OneHotPng(), tmp_path) == (
    "masks/a_hat.png:-: holds the values 0, 1, 2, want 0 and one other (one class)"
  )


def test_a_mask_of_no_photograph_is_named(tmp_path):
  photo(tmp_path / "images/a.jpg")
  write_png(tmp_path / "masks/a_hat.png", 255 * drawn(HAT))
  write_png(tmp_path / "masks/b_hat.png", 255 * drawn(HAT))
  _, lines = read(OneHotPng(), tmp_path)
  assert lines == ["masks/b_hat.png:-: no photograph and name belong to it"]
