"""Encoded image -> RGB uint8, and the views of it that the three encoders see.

numpy in, numpy out; H W image size, C = 3 channels (RGB), S the SAM canvas, A the aux
canvas. A picture is turned as its EXIF orientation says: what a viewer shows counts.
Normalisation to float happens on the device; the float functions here are the
published recipes, for parity with published weights.
"""

import io
import struct
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from input_pipeline import exif, image_headers, jpeg_repair
from miras_jax.errors import UserError

MAX_PIXELS = image_headers.MAX_PIXELS  # checked in the header before decoding
# A progressive JPEG decodes the whole picture once a scan; encoders write about ten.
MAX_SCANS = 100
MAX_SCANNED_PIXELS = 10 * MAX_PIXELS
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
SAM_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
SAM_STD = np.array([58.395, 57.12, 57.375], np.float32)
AUX_FILL = tuple(int(v) for v in np.rint(CLIP_MEAN * 255))  # normalises to about zero
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_CUBIC_A = -0.75
_ROWS = 256  # of a large picture at a time: intermediates take 4 to 16 bytes a pixel
_LONG = 4  # aspect ratio past which the resized whole is not worth its memory
_LARGE = 1 << 25  # pixels, likewise

# Its limit is not ours, and ours is an error.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class ImageError(UserError):
  """Bytes that are not a usable image; the message is the reason alone."""


def image_size(data, *, max_pixels=MAX_PIXELS):
  """(height, width) as shown, from the header; raises ImageError past `max_pixels`."""
  turn, data = _split_turn(data)
  size = _stored_size(data, max_pixels)
  return size[::-1] if exif.is_quarter_turn(turn) else size


def decode_image(data, *, max_pixels=MAX_PIXELS):
  """Encoded bytes -> RGB image_HWC uint8, turned as EXIF says.

  The format is decided by content. Alpha is dropped, a palette expanded, CMYK
  converted, 16-bit grey scaled to 8 bits. Raises ImageError for anything that does not
  decode completely: a truncated file never passes with grey filler.
  """
  turn, data = _split_turn(data)
  return exif.apply(_decode_stored(data, max_pixels), turn)


def decode_mask_png(data):
  """PNG of one channel -> mask_HW bool, where it is not 0. Raises ImageError."""
  return decode_label_png(data) != 0


def decode_label_png(data):
  """PNG of one channel -> its values (H, W), numbers or bool. Raises ImageError."""
  if not image_headers.is_png(data):
    raise ImageError("not a PNG")
  with _open_checked(data, _stored_size(data, MAX_PIXELS)) as image:
    if len(image.getbands()) != 1:
      raise ImageError(f"a PNG of mode {image.mode}, want one channel")
    _load(image)
    return np.asarray(image)


def _split_turn(data):
  """(EXIF orientation, data that the decoder leaves as stored)."""
  turn = exif.orientation(data)
  if turn != 1 and exif.is_tiff(data):  # Pillow turns TIFF by itself, others not
    data = exif.without_orientation(data)
  return turn, data


def _stored_size(data, max_pixels):
  height, width = _header_size(data)
  if height < 1 or width < 1:
    raise ImageError(f"image of {width}x{height} pixels")
  if height * width > max_pixels:
    raise ImageError(
      f"image of {width}x{height} pixels is past the limit of {max_pixels:,} pixels;"
      " make it smaller"
    )
  return height, width


def _decode_stored(data, max_pixels):
  size = _stored_size(data, max_pixels)
  if image_headers.is_jpeg(data):
    _check_scans(data, size)
    if _jpeg_header(data)[2] in ("YCbCr", "RGB", "Gray"):
      try:
        return jpeg_repair.decode(data, size[0] * size[1])
      except ValueError as e:
        raise ImageError(f"damaged or truncated JPEG: {e}") from None
  with _open_checked(data, size) as image:
    _load(image)
    return _to_rgb(image)


def _open_checked(data, size):
  image = _open_pillow(data)
  if image.size != size[::-1]:  # Pillow takes the last of several headers
    raise ImageError(f"damaged {image.format}: it states two sizes")
  return image


def _load(image):
  try:
    image.load()
  except (OSError, ValueError, SyntaxError, struct.error, MemoryError) as e:
    raise ImageError(f"damaged or truncated {image.format}: {e}") from None


def _check_scans(data, size):
  """ImageError for a JPEG whose scans would be decoded for many seconds."""
  most = min(MAX_SCANS, max(1, MAX_SCANNED_PIXELS // (size[0] * size[1])))
  if image_headers.may_have_scans(data) <= most:
    return
  if (scans := image_headers.count_scans(data)) > most:
    raise ImageError(
      f"JPEG of {size[1]}x{size[0]} pixels in {scans} scans, the limit is {most}"
    )


def _jpeg_header(data):
  try:
    return simplejpeg.decode_jpeg_header(data)
  except ValueError as e:
    reason = ImageError(f"damaged JPEG header: {e}")
  try:  # a warning alone hides nothing in a header
    return simplejpeg.decode_jpeg_header(data, strict=False)
  except (ValueError, KeyError):
    raise reason from None


def _header_size(data):
  if not data:
    raise ImageError("file is empty (0 bytes)")
  if image_headers.is_jpeg(data):
    return _jpeg_header(data)[:2]
  if image_headers.is_png(data) and data[12:16] == b"IHDR" and len(data) >= 24:
    width, height = struct.unpack(">II", data[16:24])
    return height, width
  with _open_pillow(data) as image:
    return image.size[::-1]


def _open_pillow(data):
  """Reads the header only. Pillow's own bomb check is an error here, too."""
  if image_headers.is_png(data):
    data = image_headers.bare_png(data)
  try:
    return Image.open(io.BytesIO(data), formats=_FORMATS)
  except Image.DecompressionBombError as e:
    raise ImageError(str(e)) from None
  except (OSError, ValueError, SyntaxError, struct.error, TypeError):
    raise ImageError(
      "not an image: its content is none of PNG, JPEG, WebP, BMP, TIFF"
    ) from None


def _to_rgb(image):
  if image.mode.startswith("I"):
    return _grey_to_rgb(np.asarray(image))
  if image.mode == "F":
    raise ImageError("floating-point pixels have no stated range; store 8 or 16 bits")
  image_HWC = np.empty((image.height, image.width, 3), np.uint8)
  for top in range(0, image.height, _ROWS):
    rows = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
    if image.mode == "P" and "transparency" in image.info:
      rows = rows.convert("RGBA")
    image_HWC[top : top + _ROWS] = rows.convert("RGB")
  return image_HWC


def _grey_to_rgb(grey_HW):
  """Grey of 16 bits or more -> RGB image_HWC uint8."""
  image_HWC = np.empty((*grey_HW.shape, 3), np.uint8)
  for start in range(0, len(grey_HW), _ROWS):
    rows = slice(start, start + _ROWS)
    part = np.clip(grey_HW[rows].astype(np.int64), 0, 65535)
    image_HWC[rows] = ((part * 255 + 32767) // 65535).astype(np.uint8)[..., None]
  return image_HWC


def resized_hw(height, width, size):
  """(height, width) after the longest side becomes `size`; no side becomes 0."""
  scale = size / max(height, width)
  return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def sam_view(image_HWC, size):
  """Longest side to `size`, zeros right and bottom -> (view_SSC uint8, (h, w) valid).

  Bilinear with antialias by Pillow, as published: other libraries differ in the last
  bit. In the published view padding is zero after normalisation: mask it by `valid`.
  """
  height, width = resized_hw(*image_HWC.shape[:2], size)
  view_SSC = np.zeros((size, size, 3), np.uint8)
  view_SSC[:height, :width] = _resize_bilinear(image_HWC, height, width)
  return view_SSC, (height, width)


def _resize_bilinear(image_HWC, height, width):
  """Pillow's. It resizes rows, then columns: a large picture is given to it in parts
  for the first, since its copy of the whole has 4 bytes a pixel."""
  how = Image.Resampling.BILINEAR
  if image_HWC.shape[0] * image_HWC.shape[1] > _LARGE:
    parts = [
      Image.fromarray(part).resize((width, len(part)), how)
      for part in np.split(image_HWC, range(_ROWS, len(image_HWC), _ROWS))
    ]
    image_HWC = np.concatenate([np.asarray(part) for part in parts])
  return np.asarray(Image.fromarray(image_HWC).resize((width, height), how))


def aux_view(image_HWC, size, mode="letterbox"):
  """The view of the second encoder and of CLIP -> view_AAC uint8.

  "letterbox" shows the whole image, padded right and bottom with the CLIP mean colour,
  in the geometry of `sam_view`. "center_crop" is the published view, rounded.
  """
  if mode == "center_crop":
    return _center_crop_rounded(image_HWC, size)
  if mode != "letterbox":
    raise ValueError(f"view {mode!r} is not one of letterbox, center_crop")
  height, width = resized_hw(*image_HWC.shape[:2], size)
  shrinks = height * width < image_HWC.shape[0] * image_HWC.shape[1]
  view_AAC = np.empty((size, size, 3), np.uint8)
  view_AAC[:] = AUX_FILL
  view_AAC[:height, :width] = cv2.resize(
    image_HWC,
    (width, height),
    interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
  )
  return view_AAC


def sam_input_float(image_HWC, size):
  """The published SAM input: normalised, then zero-padded -> float32 (S, S, C)."""
  view_SSC, (height, width) = sam_view(image_HWC, size)
  out_SSC = np.zeros(view_SSC.shape, np.float32)
  out_SSC[:height, :width] = (view_SSC[:height, :width] - SAM_MEAN) / SAM_STD
  return out_SSC


def aux_center_crop_float(image_HWC, size):
  """The published aux input, neither rounded nor clamped -> float32 (A, A, C)."""
  return clip_normalise(_center_crop(image_HWC, size))


def clip_normalise(image_HWC):
  """0..255 of any dtype -> float32 with the CLIP mean and standard deviation."""
  return (np.asarray(image_HWC, np.float32) / 255 - CLIP_MEAN) / CLIP_STD


def clip_view_float(aux_AAC, size):
  """Normalised aux view -> CLIP view: bilinear, half-pixel centres, no antialias."""
  return cv2.resize(aux_AAC, (size, size), interpolation=cv2.INTER_LINEAR)


def _center_crop_rounded(image_HWC, size):
  """`_center_crop` in 0..255. OpenCV's own arithmetic of bytes takes an eighth of the
  time; a pixel in a hundred thousand is one level off."""
  resized, start = _crop_of(image_HWC, size)
  if max(resized) > _LONG * size:
    crop = _long_crop(image_HWC, resized, start, size)
    return np.clip(np.rint(crop), 0, 255).astype(np.uint8)
  return _resized_crop(image_HWC, resized, start, size)


def _center_crop(image_HWC, size):
  """Short side to `size` (bicubic, a = -0.75, no antialias), centre crop -> float32."""
  resized, start = _crop_of(image_HWC, size)
  if max(resized) > _LONG * size or image_HWC.shape[0] * image_HWC.shape[1] > _LARGE:
    return _long_crop(image_HWC, resized, start, size)
  return _resized_crop(image_HWC.astype(np.float32), resized, start, size)


def _crop_of(image_HWC, size):
  """((rows, columns) of the resized whole, (top, left) of the crop in it)."""
  height, width = image_HWC.shape[:2]
  rows = size if height <= width else int(size * height / width)
  columns = size if width <= height else int(size * width / height)
  return (rows, columns), ((rows - size) // 2, (columns - size) // 2)


def _resized_crop(image_HWC, resized, start, size):
  """Of the dtype that the image has; a contiguous array."""
  whole = cv2.resize(image_HWC, resized[::-1], interpolation=cv2.INTER_CUBIC)
  top, left = start
  return np.ascontiguousarray(whole[top : top + size, left : left + size])


def _long_crop(image_HWC, resized, start, size):
  """`_center_crop` of a very long or large image: computes the pixels of the crop."""
  row_index, row_weight = _cubic_taps(image_HWC.shape[0], resized[0], start[0], size)
  index, weight = _cubic_taps(image_HWC.shape[1], resized[1], start[1], size)
  strip = image_HWC[:, index.min() : index.max() + 1]
  index = index - index.min()
  strip = sum(strip[row_index[:, k]] * row_weight[:, k, None, None] for k in range(4))
  return sum(strip[:, index[:, k]] * weight[:, k, None] for k in range(4))


def _cubic_taps(size_in, size_out, start, count):
  """Source index and weight (count, 4) of outputs start..start+count; edges repeat."""
  position = (np.arange(start, start + count) + 0.5) * (size_in / size_out) - 0.5
  base = np.floor(position)
  distance = np.abs((position - base)[:, None] - np.arange(-1, 3))
  near = ((_CUBIC_A + 2) * distance - (_CUBIC_A + 3)) * distance**2 + 1
  far = _CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
  weight = np.where(distance <= 1, near, far).astype(np.float32)
  index = base.astype(np.int64)[:, None] + np.arange(-1, 3)
  return np.clip(index, 0, size_in - 1), weight


def points_to_canvas(points, original_hw, size):
  """Points (..., 2) as (x, y) in image pixels -> pixels of the SAM canvas, float64."""
  height, width = original_hw
  new_height, new_width = resized_hw(height, width, size)
  return np.asarray(points, np.float64) * [new_width / width, new_height / height]


def boxes_to_canvas(boxes, original_hw, size):
  """Boxes (..., 4) as (x0, y0, x1, y1) in image pixels -> SAM canvas, float64."""
  boxes = np.asarray(boxes, np.float64)
  corners = boxes.reshape(*boxes.shape[:-1], 2, 2)
  return points_to_canvas(corners, original_hw, size).reshape(boxes.shape)


def points_from_canvas(points, original_hw, size):
  """The inverse of `points_to_canvas`."""
  height, width = original_hw
  new_height, new_width = resized_hw(height, width, size)
  return np.asarray(points, np.float64) * [width / new_width, height / new_height]
