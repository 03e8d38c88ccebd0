"""Class maps -> regions."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline.annotations.find import find_form
from input_pipeline.annotations.index_png import IndexPng
from input_pipeline.builders.folder import SourceFolder
from miras_jax.errors import UserError
from tests.input_pipeline.annotations.drawn import (
  CAT,
  DOG,
  HEIGHT,
  WIDTH,
  assert_masks,
  defect,
  drawn,
  masks,
  only,
  photo,
  read,
  splits,
  write_json,
  write_png,
  write_text,
)
from tests.shared_data import DATA, needs_data

NAMES = ["background", "dog", "cat"]
DOG_HW, CAT_HW = drawn(DOG), drawn(CAT) & (1 - drawn(DOG))
VALUES = DOG_HW + 2 * CAT_HW
BOTH = ("dog", DOG_HW), ("cat", CAT_HW)


def make(folder, values, names=NAMES, **options):
  photo(folder / "images/a.jpg")
  write_png(folder / "masks/a.png", values, **options)
  write_json(folder / "labels.json", names)
  return folder


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_of_8_and_16_bits(tmp_path, dtype):
  found = only(IndexPng(), make(tmp_path, VALUES.astype(dtype)))
  assert_masks(found, *BOTH)
  assert not found.instances and found.complete == {"dog", "cat"}


def test_a_palette_gives_numbers_not_colours(tmp_path):
  make(tmp_path, VALUES)
  image = Image.fromarray(VALUES, "L").convert("P")
  image.putdata(VALUES.reshape(-1).tolist())
  image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 759)
  image.save(tmp_path / "masks/a.png")
  assert_masks(only(IndexPng(), tmp_path), *BOTH)


def few_bits(values, bits):
  """A grey PNG of 2 or 4 bits, which Pillow reads and cannot write."""
  rows = np.pad(values, ((0, 0), (0, -values.shape[1] % 8)))
  each = np.unpackbits(rows[..., None], axis=2)[..., 8 - bits :]
  packed = np.packbits(each.reshape(len(rows), -1), axis=1)
  length = -(-values.shape[1] * bits // 8)
  raw = b"".join(b"\0" + row[:length].tobytes() for row in packed)
  header = struct.pack(">IIBBBBB", *values.shape[::-1], bits, 0, 0, 0, 0)

  def chunk(kind, body):
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

  chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path, bits):
  make(tmp_path, VALUES)
  (tmp_path / "masks/a.png").write_bytes(few_bits(VALUES, bits))
  assert_masks(only(IndexPng(), tmp_path), *BOTH)


def test_grey_that_was_stored_in_colour(tmp_path):
  make(tmp_path, np.stack([VALUES] * 3, axis=2))
  assert_masks(only(IndexPng(), tmp_path), *BOTH)


def test_a_picture_in_colour_is_refused(tmp_path):
  make(tmp_path, np.stack([VALUES, VALUES, 0 * VALUES], axis=2))
  assert defect(IndexPng(), tmp_path) == (
    "masks/a.png:-: is a picture in colour (RGB), want numbers of classes (grey or"
    " palette)"
  )


def test_255_is_ignored_where_the_list_is_shorter(tmp_path):
  values = VALUES.copy()
  values[0] = 255
  assert_masks(only(IndexPng(), make(tmp_path, values)), *BOTH)


def test_0_is_a_class_where_it_has_a_name(tmp_path):
  make(tmp_path, VALUES, ["sky", "dog", "cat"])
  sky = ("sky", (VALUES == 0).astype(np.uint8))
  assert_masks(only(IndexPng(), tmp_path), sky, *BOTH)


@pytest.mark.parametrize("name", ["background", "unlabelled", "", "null", "void"])
def test_0_is_nothing_where_its_name_says_so(tmp_path, name):
  make(tmp_path, VALUES, [name, "dog", "cat"])
  assert_masks(only(IndexPng(), tmp_path), *BOTH)


@pytest.mark.parametrize(
  "names",
  [
    {"1": "dog", "2": "cat"},
    {"dog": 1, "cat": 2},
    [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
  ],
)
def test_forms_of_a_list_of_names(tmp_path, names):
  assert_masks(only(IndexPng(), make(tmp_path, VALUES, names)), *BOTH)


def test_names_in_a_text_file(tmp_path):
  make(tmp_path, VALUES)
  (tmp_path / "labels.json").unlink()
  write_text(tmp_path / "classes.txt", "background\ndog\ncat\n\n")
  assert_masks(only(IndexPng(), tmp_path), *BOTH)


def test_names_that_the_user_gives(tmp_path):
  names = {1: "hound", 2: "puss"}
  found = only(IndexPng(names), make(tmp_path, VALUES))
  assert [name for name, _ in masks(found)] == ["hound", "puss"]


def test_no_names_is_one_line(tmp_path):
  make(tmp_path, VALUES)
  (tmp_path / "labels.json").unlink()
  with pytest.raises(UserError, match="hold numbers and no names; want one of labels"):
    read(IndexPng(), tmp_path)


def test_a_value_without_a_name_is_refused(tmp_path):
  make(tmp_path, VALUES * 3)
  assert "masks/a.png:-: holds the value 3, which has no name" in defect(
    IndexPng(), tmp_path
  )


def test_a_list_that_lacks_the_background_is_guessed(tmp_path):
  make(tmp_path, VALUES, ["dog", "cat"])
  line = defect(IndexPng(), tmp_path)
  assert line.endswith("the list ends at 1; does it lack the name of 0, background?")


def test_a_mask_of_another_size_is_refused(tmp_path):
  make(tmp_path, VALUES.T.copy())
  assert defect(IndexPng(), tmp_path) == (
    "masks/a.png:-: is for an image of 30x40 pixels, the image has 40x30"
  )


def test_a_mask_lies_on_the_photograph_as_shown(tmp_path):
  make(tmp_path, VALUES)
  photo(tmp_path / "images/a.jpg", height=WIDTH, width=HEIGHT, turn=6)
  assert_masks(only(IndexPng(), tmp_path), *BOTH)


def test_a_mask_too_large_for_the_memory_is_refused_by_its_header(tmp_path):
  make(tmp_path, VALUES)
  file = tmp_path / "masks/a.png"
  data = bytearray(file.read_bytes())
  data[16:24] = struct.pack(">II", 1 << 30, 1 << 30)
  file.write_bytes(data)
  assert "the limit is" in defect(IndexPng(), tmp_path)


def test_a_truncated_mask_is_refused(tmp_path):
  make(tmp_path, VALUES)
  file = tmp_path / "masks/a.png"
  file.write_bytes(file.read_bytes()[:-30])
  assert defect(IndexPng(), tmp_path).startswith("masks/a.png:-: damaged or truncated")


def test_photographs_and_masks_that_lack_each_other_are_named(tmp_path):
  make(tmp_path, VALUES)
  photo(tmp_path / "images/b.jpg")
  write_png(tmp_path / "masks/c.png", VALUES)
  photos, lines = read(IndexPng(), tmp_path)
  assert list(photos) == ["images/a.jpg"]
  assert lines == [
    "images/b.jpg:-: no mask belongs to it",
    "masks/c.png:-: no photograph belongs to it",
  ]


def test_splits_are_those_of_the_folders(tmp_path):
  write_json(tmp_path / "labels.json", NAMES)
  for split in ("train", "val"):
    photo(tmp_path / "images" / split / "a.jpg")
    write_png(tmp_path / "masks" / split / "a.png", VALUES)
  assert splits(IndexPng(), tmp_path) == {
    "images/train/a.jpg": "train",
    "images/val/a.jpg": "val",
  }


def test_roboflow_puts_masks_beside_the_photographs(tmp_path):
  photo(tmp_path / "train/a_jpg.rf.0f3c.jpg")
  write_png(tmp_path / "train/a_jpg.rf.0f3c_mask.png", VALUES)
  rows = "Pixel Value, Class\n0, background\n1, dog\n2, cat\n"
  write_text(tmp_path / "train/_classes.csv", rows)
  assert_masks(only(IndexPng(), tmp_path), *BOTH)


@needs_data
def test_real_street_photographs():
  src = SourceFolder(DATA / "street_photos")
  form = find_form(src)
  assert form.name == "index_png"
  units = list(form.units(src))
  assert len(units) == 802
  for unit in units[:3]:
    found = form.read(src, unit)
    values = np.asarray(Image.open(DATA / "street_photos" / unit["mask"]))
    covered = sum(mask_HW.astype(int) for _, mask_HW in masks(found))
    np.testing.assert_array_equal(covered, values != 0)
    assert len(found.complete) == 58
