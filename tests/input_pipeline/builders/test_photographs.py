"""Photographs of sources: shown as the published loaders show them, or refused."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from input_pipeline import image_ops
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.photographs import find, read_photo
from tests.input_pipeline.builders.in_memory import write_photo
from tests.prist_files import photo


def written(path, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(photo(24, 40)).save(path, "JPEG", exif=exif, quality=95)
  return Image.open(io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path, orientation):
  expected = ImageOps.exif_transpose(written(tmp_path / "a.jpg", orientation))
  found = read_photo(SourceFolder(tmp_path), "a.jpg")
  assert (found.width, found.height) == expected.size
  pixels = image_ops.decode_image(found.data).astype(int)
  assert np.abs(pixels - np.asarray(expected)).mean() < 3


def test_a_picture_that_is_not_turned_keeps_its_bytes(tmp_path):
  written(tmp_path / "a.jpg", 1)
  found = read_photo(SourceFolder(tmp_path), "a.jpg")
  assert found.data == (tmp_path / "a.jpg").read_bytes()


def test_a_damaged_gif_is_refused_with_its_name(tmp_path):
  (tmp_path / "a.jpg").write_bytes(b"GIF89a\x05\x00\x05\x00")
  with pytest.raises(ValueError, match="a.jpg: damaged or truncated GIF"):
    read_photo(SourceFolder(tmp_path), "a.jpg")


def test_a_gif_that_states_too_many_pixels_is_refused(tmp_path):
  stream = io.BytesIO()
  Image.new("P", (4, 4)).save(stream, "GIF")
  data = bytearray(stream.getvalue())
  data[6:10] = b"\xff\xff\xff\xff"
  (tmp_path / "a.gif").write_bytes(data)
  with pytest.raises(ValueError, match="a.gif: .*pixels"):
    read_photo(SourceFolder(tmp_path), "a.gif")


def test_a_picture_is_found_under_the_first_prefix_that_has_it(tmp_path):
  write_photo(tmp_path / "data/coco/a.jpg", 4, 4)
  src = SourceFolder(tmp_path)
  assert find(src, "coco/a.jpg", ("", "data/")) == "data/coco/a.jpg"
  assert find(src, "coco/b.jpg", ("", "data/")) == "coco/b.jpg"
