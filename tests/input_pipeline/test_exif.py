"""A photograph with an EXIF turn is what a viewer shows, in every format and reader."""

import io
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from input_pipeline import examples, exif, image_ops, mask_ops, prist
from tests import prist_files

RED = (200, 30, 30)
RECTANGLE = [[3, 2], [13, 2], [13, 8], [3, 8]]  # in the picture as it is shown
FORMATS = {"JPEG": {"quality": 100}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
UNDO = {6: 8, 8: 6}  # the turn that undoes a turn; the others undo themselves


def shown(height=24, width=32):
  """A grey picture with a red rectangle."""
  image = np.full((height, width, 3), 170, np.uint8)
  image[2:9, 3:14] = RED
  return image


def turned_file(turn, kind="PNG", image=None, **options):
  """A file whose pixels are stored so that EXIF must turn them to show the picture."""
  block = Image.Exif()
  block[0x0112] = turn
  stored = exif.apply(shown() if image is None else image, UNDO.get(turn, turn))
  return prist_files.encode(stored, kind, exif=block, **FORMATS[kind], **options)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("turn", range(1, 9))
def test_picture_is_decoded_as_a_viewer_shows_it(kind, turn):
  data = turned_file(turn, kind)
  found = image_ops.decode_image(data).astype(int)
  viewer = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
  assert image_ops.image_size(data) == found.shape[:2] == (24, 32)
  lossy = 8 if kind == "JPEG" else 0
  assert np.abs(found - np.asarray(viewer)).max() <= lossy
  assert exif.orientation(data) == turn


@pytest.mark.parametrize("kind", FORMATS)
def test_file_without_its_orientation_is_shown_as_stored(kind):
  data = exif.without_orientation(turned_file(6, kind))
  assert exif.orientation(data) == 1
  assert image_ops.decode_image(data).shape == (32, 24, 3)
  assert Image.open(io.BytesIO(data)).size == (24, 32)


def test_big_tiff_is_turned_once():
  data = turned_file(8, "TIFF", big_tiff=True)
  assert data[2] == 43
  np.testing.assert_array_equal(image_ops.decode_image(data), shown())


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_that_is_none_turns_nothing(value):
  data = turned_file(3)
  place = exif._find(data)
  harmed = data[: place.start] + value.to_bytes(2, place.order) + data[place.end :]
  assert exif.orientation(harmed) == 1


def test_damaged_exif_block_is_soon_given_up():
  start = time.perf_counter()
  full = b"MM\0*\0\0\0\x08\xff\xff" + bytes(99)
  for block in (b"MM\0*\xff\xff\xff\xff", full, b"II"):
    segment = b"Exif\0\0" + block
    size = (len(segment) + 2).to_bytes(2, "big")
    assert exif.orientation(b"\xff\xd8\xff\xe1" + size + segment) == 1
  for start_of in (b"II*\0\x08\0\0\0", b"II+\0\x08\0\0\0" + b"\xff" * 20):
    assert exif.orientation(start_of + b"\xff" * 5_000_000) == 1
  assert time.perf_counter() - start < 5


def read(tmp_path, data, height, width, focus="cup", points=RECTANGLE):
  """(record, notes) of a data set of one photograph and the size its file states."""
  shape = prist_files.shape("cup", points)
  annotation = prist_files.labelme(shape, height=height, width=width)
  root = prist_files.write(
    tmp_path, [prist_files.record(focus=focus)], annotation=annotation, image=data
  )
  dataset = prist.read_dataset(root, "val")
  problems, notes = dataset.examine(0)
  assert problems == []
  return dataset[0], [str(note) for note in notes]


def colour_below(record):
  mask = mask_ops.decode_rle(record.targets[0][1]).astype(bool)
  image = image_ops.decode_image(record.image)
  assert image.shape[:2] == mask.shape
  return image[mask].mean(0).round().tolist()


@pytest.mark.parametrize("turn", range(2, 9))
def test_mask_drawn_on_what_is_shown_lies_on_it(tmp_path, turn):
  record, notes = read(tmp_path, turned_file(turn), 24, 32)
  assert colour_below(record) == list(RED)
  assert notes == []


def test_annotation_that_states_no_size_is_for_what_is_shown(tmp_path):
  record, _ = read(tmp_path, turned_file(6), None, None)
  assert colour_below(record) == list(RED)


def test_annotation_of_the_stored_size_is_for_the_stored_pixels(tmp_path):
  points = [[23 - y, x] for x, y in RECTANGLE]
  record, (note,) = read(tmp_path, turned_file(8), 32, 24, points=points)
  assert image_ops.decode_image(record.image).shape == (32, 24, 3)
  assert colour_below(record) == list(RED)
  assert "EXIF orientation (8) is ignored" in note and "24x32" in note


def test_record_without_a_target_sees_the_picture_of_the_others(tmp_path):
  record, _ = read(tmp_path, turned_file(8), 32, 24, focus=None)
  assert image_ops.decode_image(record.image).shape == (32, 24, 3)


def test_square_picture_is_what_is_shown(tmp_path):
  square = turned_file(6, image=shown(32, 32))
  record, _ = read(tmp_path, square, 32, 32)
  assert colour_below(record) == list(RED)


def test_model_sees_a_phone_photograph_upright():
  sizes = {"sam_size": 32, "aux_size": 32, "max_len": 64, "max_masks": 1}
  cfg = examples.DataConfig(**sizes, num_image_tokens=4)
  views = examples.make_views(turned_file(6, "JPEG"), cfg)
  assert views["original_hw"].tolist() == [24, 32]
  assert np.abs(views["image_sam"][5, 8].astype(int) - RED).max() < 8
