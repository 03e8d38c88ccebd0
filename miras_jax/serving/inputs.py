"""What comes over the wire, as the model takes it. Nothing here trusts a size.

H W image rows and columns.
"""

import base64
import binascii
import re

import numpy as np

from input_pipeline import image_ops, mask_ops
from miras_jax.errors import UserError
from miras_jax.inference import conversation
from miras_jax.serving.refusals import TooLarge

_DATA_URI = re.compile(r"data:[\w.+-]*/?[\w.+-]*;base64,")
MAX_NAME = 200


def bytes_of(text: str, what: str, limit: int) -> bytes:
  """Bytes of base64 or of a data URI. Raises UserError, TooLarge."""
  if text.startswith("data:"):
    head = _DATA_URI.match(text)
    if not head:
      raise UserError(f"{what}: want data:TYPE;base64,...")
    text = text[head.end() :]
  if len(text) > limit * 4 / 3 + 4:
    raise TooLarge(f"{what}: more than {limit:,} bytes")
  try:
    return base64.b64decode(text, validate=True)
  except (binascii.Error, ValueError):
    raise UserError(f"{what}: not valid base64") from None


def mask_of(given, size) -> np.ndarray:
  """COCO RLE {"size", "counts"} or a PNG in base64 -> bool (H, W) of the image's size.

  Raises UserError.
  """
  pixels = size[0] * size[1]
  if isinstance(given, dict):
    try:
      mask_HW = mask_ops.decode_rle(given, max_pixels=pixels) != 0
    except ValueError as error:
      raise UserError(f"mask: {error}") from None
  else:
    data = bytes_of(given, "mask", 4 * pixels + 100_000)
    try:
      image_ops.image_size(data, max_pixels=pixels)
      mask_HW = image_ops.decode_mask_png(data)
    except image_ops.ImageError as error:
      raise UserError(f"mask: {error}") from None
  if mask_HW.shape != tuple(size):
    wanted = f"the image is {tuple(size)} (height, width)"
    raise UserError(f"mask: {mask_HW.shape}, {wanted}")
  return mask_HW


def check_text(text: str, most: int) -> str:
  """A message without outer white space. Raises UserError."""
  if len(text) > most:
    raise UserError(f"text: {len(text):,} characters, the limit is {most:,}")
  return conversation.check_text(text)


def name_of(name: str | None) -> str:
  """The last part of a file name, printable: a label, never opened as a path."""
  last = re.split(r"[/\\]", name or "")[-1]
  return "".join(c for c in last if c.isprintable())[:MAX_NAME] or "image"
