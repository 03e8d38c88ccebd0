"""Files made to cost much: each is refused in one line, soon, with little memory."""

import os
import re
import struct
import time
import zlib

import numpy as np
import pytest

from input_pipeline import (
  image_headers,
  image_ops,
  labelme,
  mask_ops,
  prist,
  safe_files,
)
from input_pipeline.records import RecordError
from tests import prist_files

SOON = 5.0  # seconds, on a busy machine


def chunk(kind, body):
  data = kind + body
  return struct.pack(">I", len(body)) + data + struct.pack(">I", zlib.crc32(data))


def header(width, height):
  return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png_of_two_sizes():
  small = prist_files.encode(np.zeros((4, 4, 3), np.uint8))
  return small[:8] + header(4, 4) + header(9000, 9000) + small[33:]


def progressive(height=64, width=64, repeats=0):
  """(JPEG whose last scans are repeated, number of its scans)."""
  picture = prist_files.photo(height, width)
  data = prist_files.encode(picture, "JPEG", progressive=True, quality=90)
  starts = [m.start() for m in re.finditer(b"\xff\xda", data)]
  scan = data[starts[3] : starts[4]]
  return data[: starts[4]] + scan * repeats + data[starts[4] :], len(starts) + repeats


def zigzag(points, height, width):
  x = np.linspace(0, width - 1, points)
  return np.stack([x, np.arange(points) % 2 * (height - 1)], axis=1)


def test_png_with_two_headers_is_refused():
  with pytest.raises(image_ops.ImageError, match="two sizes"):
    image_ops.decode_image(png_of_two_sizes())


def test_jpeg_with_hundreds_of_scans_is_refused():
  with pytest.raises(image_ops.ImageError, match="310 scans, the limit is 100"):
    image_ops.decode_image(progressive(repeats=300)[0])


def test_large_jpeg_may_have_few_scans(monkeypatch):
  monkeypatch.setattr(image_ops, "MAX_SCANNED_PIXELS", 64 * 64 * 10)
  assert image_ops.decode_image(progressive()[0]).shape == (64, 64, 3)
  with pytest.raises(image_ops.ImageError, match="the limit is 10"):
    image_ops.decode_image(progressive(repeats=1)[0])


def test_scans_of_a_thumbnail_do_not_count():
  data, scans = progressive()
  inside = data * 3
  marker = b"\xff\xe1" + struct.pack(">H", len(inside) + 2) + inside
  assert image_headers.count_scans(data[:2] + marker + data[2:]) == scans == 10


def test_scan_after_stray_bytes_counts():
  data, scans = progressive()
  at = data.index(b"\xff\xda")
  assert image_headers.count_scans(data[:at] + b"stray" + data[at:]) == scans


def test_markers_without_end_are_not_followed_for_ever():
  start = time.perf_counter()
  image_headers.count_scans(b"\xff\xd8" + b"\xff\xfe\0\2" * 5_000_000)
  assert time.perf_counter() - start < SOON


def test_grey_of_16_bits_takes_little_memory_beside_the_picture():
  import tracemalloc

  grey_HW = np.zeros((3000, 3000), np.uint16)
  tracemalloc.start()
  image_ops._grey_to_rgb(grey_HW)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 3 * grey_HW.size + 100_000_000


@pytest.mark.parametrize(
  "polygon",
  [
    zigzag(160_000, 480, 640),
    np.random.default_rng(0).uniform(0, 1000, (8000, 2)),
    np.tile([[0, -1e6], [100, 1e6], [50, 1e6], [0, 1e6]], (1000, 1)),
    np.tile([[0, 0], [900, 1], [0, 2], [900, 3]], (40_000, 1)),
  ],
  ids=["zigzag", "scribble", "outside", "flat"],
)
def test_polygon_that_crosses_itself_without_end_is_refused(polygon):
  start = time.perf_counter()
  with pytest.raises(ValueError, match="too long to draw"):
    mask_ops.rasterise_polygons([polygon], 1000, 1000)
  assert time.perf_counter() - start < SOON


def test_fine_outline_of_a_noisy_mask_is_drawn():
  """Every second pixel column of a megapixel: far more than a hand draws."""
  comb = zigzag(1000, 1000, 1000)
  assert mask_ops.rasterise_polygons([comb], 1000, 1000).any()


def examine(tmp_path, records, **files):
  root = prist_files.write(tmp_path, records, **files)
  problems, _ = prist.read_dataset(root, "val").examine(0)
  return [str(p) for p in problems]


def test_record_whose_masks_take_minutes_together_is_one_line(tmp_path):
  labels = [f"cup {k}" for k in range(100)]
  shapes = [prist_files.shape(label) for label in labels]
  record = prist_files.record(focus=labels, answer="[SEG]" * len(labels))
  image = prist_files.encode(np.zeros((5000, 9000), np.uint8))
  annotation = prist_files.labelme(*shapes, height=5000, width=9000)
  (problem,) = examine(tmp_path, [record], image=image, annotation=annotation)
  assert "val.json:0: masks/a.json: 100 masks of 9000x5000 pixels" in problem


def test_record_of_thousands_of_targets_is_one_line(tmp_path):
  record = prist_files.record(focus=["cup"] * 5000, answer="[SEG]" * 5000)
  (problem,) = examine(tmp_path, [record])
  assert "5,000 texts, the limit is 256" in problem


def test_number_of_shapes_is_bounded():
  shapes = [{"label": "cup"}] * (labelme.MAX_SHAPES + 1)
  with pytest.raises(ValueError, match="50,001 shapes"):
    labelme.parse_annotation({"shapes": shapes})


@pytest.mark.parametrize("text", [b"[],", b"{},", b"1,"])
def test_json_that_would_fill_the_memory_is_not_parsed(text):
  start = time.perf_counter()
  with pytest.raises(ValueError, match="holds more than"):
    safe_files.parse_json(b"[" + text * 11_000_000 + b"1]")
  assert time.perf_counter() - start < SOON


def special(kind, path):
  """A thing that is no regular file at `path`."""
  path.unlink()
  if kind == "fifo":
    os.mkfifo(path)
  else:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["fifo", "device"])
@pytest.mark.parametrize("name", ["images/a.png", "masks/a.json", "val.json"])
def test_only_regular_files_are_read(tmp_path, kind, name):
  prist_files.write(tmp_path, [prist_files.record()])
  special(kind, tmp_path / name)
  try:
    problems, _ = prist.read_dataset(tmp_path, "val").examine(0)
    lines = [str(p) for p in problems]
  except RecordError as error:
    lines = [str(error)]
  assert len(lines) == 1
  assert "is not a regular file" in lines[0] or "leaves its folder" in lines[0]


def test_picture_of_two_sizes_is_a_defect_of_its_record(tmp_path):
  (problem,) = examine(tmp_path, [prist_files.record()], image=png_of_two_sizes())
  assert problem.startswith("val.json:0: images/a.png: damaged PNG")


def test_repeated_focus_shares_one_mask(tmp_path, monkeypatch):
  drawn, draw = [], labelme.focus_mask
  monkeypatch.setattr(labelme, "focus_mask", lambda *a: drawn.append(a) or draw(*a))
  record = prist_files.record(focus=["cup"] * 200, answer="[SEG]" * 200)
  root = prist_files.write(tmp_path, [record])
  assert len(prist.read_dataset(root, "val")[0].targets) == 200
  assert len(drawn) == 1


def test_a_list_past_the_limit_names_who_reads_it(tmp_path, monkeypatch):
  root = prist_files.write(tmp_path, [prist_files.record()])
  monkeypatch.setattr(safe_files, "MAX_LIST_BYTES", 10)
  with pytest.raises(RecordError, match="`miras data build prist` reads lists of any"):
    prist.read_dataset(root, "val")
