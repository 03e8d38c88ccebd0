"""Image decoding that trusts nothing, and the views of the three encoders."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline import image_ops, labelme, mask_canvas
from tests.prist_files import encode, photo
from tests.shared_data import GOLDEN, needs_golden

ATOL = 1e-4


def chw(image_HWC):
  return image_HWC.transpose(2, 0, 1)


def max_difference(a, b):
  return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()


@needs_golden
@pytest.mark.parametrize("case", ["0", "1", "2"])
class TestPreprocessGolden:
  """preprocess.npz: every published step."""

  def load(self, case):
    golden = np.load(GOLDEN / "preprocess.npz")
    return {k[2:]: golden[k] for k in golden.files if k.startswith(f"{case}/")}

  def test_sam_resize_is_bit_equal(self, case):
    golden = self.load(case)
    view, (height, width) = image_ops.sam_view(golden["image_uint8"], 128)
    assert (height, width) == tuple(golden["target_size"])
    np.testing.assert_array_equal(view[:height, :width], golden["resized_uint8"])
    assert not view[height:].any() and not view[:, width:].any()

  def test_sam_input(self, case):
    golden = self.load(case)
    found = chw(image_ops.sam_input_float(golden["image_uint8"], 128))
    assert max_difference(found, golden["sam_input"]) <= ATOL

  def test_aux_and_clip_input(self, case):
    golden = self.load(case)
    aux = image_ops.aux_center_crop_float(golden["image_uint8"], 128)
    assert max_difference(chw(aux), golden["aux_input"]) <= ATOL
    clip = image_ops.clip_view_float(aux, 56)
    assert max_difference(chw(clip), golden["clip_input"]) <= ATOL

  def test_uint8_centre_crop_rounds_the_published_view(self, case):
    golden = self.load(case)
    view = image_ops.aux_view(golden["image_uint8"], 128, "center_crop")
    clamped = golden["aux_input"].transpose(1, 2, 0) * image_ops.CLIP_STD
    clamped = np.clip((clamped + image_ops.CLIP_MEAN) * 255, 0, 255)
    assert view.dtype == np.uint8
    assert max_difference(view, clamped) <= 0.5 + 1e-3

  def test_points_and_boxes(self, case):
    golden = self.load(case)
    size = golden["image_uint8"].shape[:2]
    points = image_ops.points_to_canvas(golden["coords_in"], size, 128)
    boxes = image_ops.boxes_to_canvas(golden["boxes_in"], size, 128)
    np.testing.assert_allclose(points, golden["coords_out"], atol=1e-9)
    np.testing.assert_allclose(boxes, golden["boxes_out"], atol=1e-9)
    back = image_ops.points_from_canvas(points, size, 128)
    np.testing.assert_allclose(back, golden["coords_in"], atol=1e-9)


@needs_golden
@pytest.mark.parametrize("case", [0, 1])
def test_dataset_items_golden(case):
  golden = np.load(GOLDEN / "dataset_items.npz")
  image = golden[f"{case}/image_uint8"]
  aux = image_ops.aux_center_crop_float(image, 128)
  views = {
    "images": image_ops.sam_input_float(image, 128),
    "images_aux": aux,
    "images_clip": image_ops.clip_view_float(aux, 56),
  }
  for name, view in views.items():
    assert max_difference(chw(view), golden[f"{case}/{name}"]) <= ATOL, name
  resized = image_ops.resized_hw(*image.shape[:2], 128)
  assert resized == tuple(golden[f"{case}/resize"])


@needs_golden
@pytest.mark.parametrize("case", [0, 1])
def test_dataset_masks_golden(case):
  golden = np.load(GOLDEN / "dataset_items.npz")[f"{case}/masks"][0]
  item = json.loads((GOLDEN / "prompts.json").read_text())["items"][case]
  annotation = labelme.parse_annotation(item["mask_json"])
  chosen = labelme.select_shapes(annotation.shapes, item["focus"]).shapes
  mask, _ = labelme.focus_mask(chosen, item["focus"], *golden.shape)
  np.testing.assert_array_equal(mask, golden)


@pytest.mark.parametrize("size", [(20, 300), (300, 20), (7, 29)])
def test_long_image_crop_equals_crop_of_the_whole(size):
  image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
  found = image_ops.aux_center_crop_float(image, 16)
  rows, columns = (16 * side // min(size) for side in size)
  np.testing.assert_allclose(found, cubic_reference(image, rows, columns), atol=ATOL)


def cubic_reference(image, rows, columns):
  """The published resize as two dense matrices, then the crop; slow and plain."""

  def matrix(size_in, size_out):
    out = np.zeros((size_out, size_in))
    for y in range(size_out):
      x = (y + 0.5) * size_in / size_out - 0.5
      for tap in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
        d = abs(x - tap)
        near = 1.25 * d**3 - 2.25 * d**2 + 1
        far = -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
        out[y, np.clip(tap, 0, size_in - 1)] += near if d <= 1 else far
    return out

  rows_by_H = matrix(image.shape[0], rows)
  columns_by_W = matrix(image.shape[1], columns)
  whole = np.einsum("yh,hwc,xw->yxc", rows_by_H, image, columns_by_W)
  top, left = (rows - 16) // 2, (columns - 16) // 2
  return image_ops.clip_normalise(whole[top : top + 16, left : left + 16])


def test_letterbox_shows_the_whole_image_in_the_geometry_of_sam():
  image = np.full((40, 100, 3), 255, np.uint8)
  view = image_ops.aux_view(image, 64)
  _, (height, width) = image_ops.sam_view(image, 64)
  assert (view[:height, :width] == 255).all()
  assert (view[height:] == image_ops.AUX_FILL).all()
  assert max_difference(image_ops.clip_normalise(view[height:]), 0) < 0.01


def test_unknown_view_is_named():
  with pytest.raises(ValueError, match="letterboxed"):
    image_ops.aux_view(photo(), 16, "letterboxed")


@pytest.mark.parametrize("size", [(1, 1), (20, 20_000), (20_000, 20)])
def test_extreme_sizes_keep_every_side(size):
  image = np.zeros((*size, 3), np.uint8)
  _, (height, width) = image_ops.sam_view(image, 64)
  assert min(height, width) >= 1
  for mode in ("letterbox", "center_crop"):
    assert image_ops.aux_view(image, 64, mode).shape == (64, 64, 3)
  assert mask_canvas.mask_to_canvas(np.ones(size), 64).sum() == height * width


def test_rgb_jpeg_equals_pillow():
  data = encode(photo(64, 80), "JPEG", quality=90)
  expected = np.asarray(Image.open(io.BytesIO(data)))
  np.testing.assert_array_equal(image_ops.decode_image(data), expected)


def test_format_is_decided_by_content():
  image = photo()
  for kind in ("PNG", "BMP", "TIFF"):
    np.testing.assert_array_equal(image_ops.decode_image(encode(image, kind)), image)


def test_cmyk_jpeg_is_not_inverted():
  image = np.zeros((16, 16, 3), np.uint8)
  image[:] = (200, 40, 90)
  cmyk = Image.fromarray(image).convert("CMYK")
  found = image_ops.decode_image(encode(cmyk, "JPEG", quality=100))
  assert max_difference(found, image) <= 4


def test_grey_jpeg_gets_three_equal_channels():
  grey = photo()[..., 0]
  found = image_ops.decode_image(encode(grey, "JPEG", quality=100))
  assert found.shape == (*grey.shape, 3)
  assert max_difference(found, np.repeat(grey[..., None], 3, 2)) <= 3


def test_sixteen_bit_grey_is_scaled():
  grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
  found = image_ops.decode_image(encode(grey * 257))
  np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, 2))


def test_palette_with_transparency_expands():
  image = Image.fromarray(photo()).quantize(16)
  colours = np.asarray(image.convert("RGB"))
  found = image_ops.decode_image(encode(image, transparency=3))
  np.testing.assert_array_equal(found, colours)


def test_alpha_is_dropped():
  image = photo()
  alpha = np.full((*image.shape[:2], 1), 7, np.uint8)
  found = image_ops.decode_image(encode(np.concatenate([image, alpha], axis=2)))
  np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "CMYK"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.97])
def test_truncated_image_is_refused(kind, part):
  image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
  image = Image.fromarray(image)
  data = (
    encode(image.convert("CMYK"), "JPEG") if kind == "CMYK" else encode(image, kind)
  )
  with pytest.raises(image_ops.ImageError):
    image_ops.decode_image(data[: int(len(data) * part)])


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data):
  with pytest.raises(image_ops.ImageError):
    image_ops.decode_image(data)


def png_header(width, height):
  body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
  return b"\x89PNG\r\n\x1a\n" + chunk


def test_size_is_refused_by_the_header_alone():
  with pytest.raises(image_ops.ImageError, match="60000x60000 .* 120,000,000"):
    image_ops.decode_image(png_header(60_000, 60_000))


def test_pixel_limit_is_inclusive():
  data = encode(photo(10, 20))
  assert image_ops.decode_image(data, max_pixels=200).shape == (10, 20, 3)
  with pytest.raises(image_ops.ImageError, match="20x10"):
    image_ops.decode_image(data, max_pixels=199)


def test_photograph_of_a_phone_is_within_the_limit():
  for width, height in ((8192, 6144), (9280, 6944), (12032, 9024)):
    assert image_ops.image_size(png_header(width, height)) == (height, width)


def test_large_picture_is_resized_in_parts_to_the_same_bits(monkeypatch):
  image = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
  whole, _ = image_ops.sam_view(image, 96)
  crop = image_ops.aux_view(image, 64, "center_crop")
  monkeypatch.setattr(image_ops, "_LARGE", 1000)
  np.testing.assert_array_equal(image_ops.sam_view(image, 96)[0], whole)
  assert max_difference(image_ops.aux_view(image, 64, "center_crop"), crop) <= 1


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"tEXt", b"iTXt"])
def test_png_with_megabytes_beside_its_pixels_is_used(name):
  text = b"a" * 3_000_000
  body = {
    b"iCCP": b"profile\0\0" + zlib.compress(text),
    b"zTXt": b"Comment\0\0" + zlib.compress(text),
    b"tEXt": b"Comment\0" + text,
    b"iTXt": b"Comment\0\1\0\0\0" + zlib.compress(text),
  }[name]
  clean = encode(photo())
  chunk = struct.pack(">I", len(body)) + name + body
  chunk += struct.pack(">I", zlib.crc32(name + body))
  data = clean[:33] + chunk + clean[33:]
  np.testing.assert_array_equal(image_ops.decode_image(data), photo())


def test_transparent_grey_png_keeps_its_pixels():
  grey = photo()[..., 0]
  found = image_ops.decode_image(encode(grey, transparency=int(grey[0, 0])))
  np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, 2))


def test_the_published_view_in_bytes_is_within_a_level_of_the_rounded_one():
  image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
  exact = image_ops.aux_center_crop_float(image, 48)
  pixels = np.rint((exact * image_ops.CLIP_STD + image_ops.CLIP_MEAN) * 255)
  view = image_ops.aux_view(image, 48, "center_crop").astype(int)
  assert np.abs(view - np.clip(pixels, 0, 255)).max() <= 1
