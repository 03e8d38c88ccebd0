"""A record as a picture: the image with its masks on the left, the dialogue beside it.

Sizes are pixels.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from input_pipeline import image_ops, mask_ops
from miras_jax import drawing

_IMAGE_SIDE = 640
_TEXT_WIDTH = 520
_MARGIN = 16
_LINE = 20
_MAX_LINES = 400
_INK = {"user": (20, 20, 20), "assistant": (30, 80, 160)}


def draw_record(record):
  """SegConversation -> PIL image."""
  font = ImageFont.load_default(size=14)
  image_HWC = np.full((_IMAGE_SIDE, _IMAGE_SIDE, 3), 255, np.uint8)
  if record.image:
    image_HWC = image_ops.decode_image(record.image)
  masks = [mask_ops.decode_rle(rle) for _, rle in record.targets]
  image_HWC = drawing.draw_masks(image_HWC, masks)
  height, width = image_ops.resized_hw(*image_HWC.shape[:2], _IMAGE_SIDE)
  photo = Image.fromarray(image_HWC).resize((width, height))
  lines = _lines(record, font)
  page = Image.new(
    "RGB",
    (width + _TEXT_WIDTH + 3 * _MARGIN, max(height, len(lines) * _LINE) + 2 * _MARGIN),
    "white",
  )
  page.paste(photo, (_MARGIN, _MARGIN))
  draw = ImageDraw.Draw(page)
  for k, (text, ink) in enumerate(lines):
    draw.text((width + 2 * _MARGIN, _MARGIN + k * _LINE), text, fill=ink, font=font)
  return page


def _lines(record, font):
  """(text, colour) of every line beside the image, at most _MAX_LINES."""
  lines = [(f"{record.id}   {record.image_id}", (120, 120, 120))]
  for role, text in record.turns:
    lines += [(line, _INK[role]) for line in _wrap(f"{role}: {text}", font)]
  lines.append(("", (0, 0, 0)))
  for k, (name, rle) in enumerate(record.targets):
    share = mask_ops.rle_area(rle) / np.prod(rle["size"])
    meaning = name or "nothing (empty target)"
    text = f"[SEG] {k + 1}: {meaning}, {share:.1%} of the image"
    lines += [(line, drawing.mask_color(k)) for line in _wrap(text, font)]
  if len(lines) > _MAX_LINES:
    lines = lines[: _MAX_LINES - 1] + [("... (cut)", (120, 120, 120))]
  return lines


def _wrap(text, font):
  """Breaks at spaces, and inside a word that is longer than a line."""
  lines, line = [], ""
  for word in text.split():
    while font.getlength(word) > _TEXT_WIDTH and len(word) > 1:
      cut = max(1, int(len(word) * _TEXT_WIDTH / font.getlength(word)))
      lines, line, word = [*lines, line, word[:cut]], "", word[cut:]
    if line and font.getlength(f"{line} {word}") > _TEXT_WIDTH:
      lines, line = [*lines, line], word
    else:
      line = f"{line} {word}".strip()
  return [part for part in [*lines, line] if part]
