"""Draws masks over images, and the grid of examples as one PNG.

Images are RGB uint8 (H, W, 3); masks are (H, W), anything non-zero is inside. Nothing
here needs a display or an outside font.
"""

import dataclasses
import io
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Distinct for colour-blind eyes (Okabe and Ito). The first is the one that photographs
# hold least: skin, wood, bricks and leaves are of other hues.
COLORS = ((86, 180, 233), (230, 159, 0), (204, 121, 167), (240, 228, 66), (0, 158, 115))
ALPHA = 0.45
# The two tones of every outline: one of them stands out from any pixel beneath.
DARK, LIGHT = (0, 0, 0), (255, 255, 255)
_MOST_TURNS = 16  # of a row of the grid


def mask_color(i) -> tuple[int, int, int]:
  """RGB of the i-th mask of a picture."""
  return COLORS[i % len(COLORS)]


@dataclasses.dataclass(frozen=True)
class Panel:
  """One picture of an example: an image and the masks drawn over it, in order."""

  title: str
  image_HWC: np.ndarray
  masks: tuple = ()


@dataclasses.dataclass(frozen=True)
class Example:
  """One conversation to look at. `turns` holds (user, answer, gold answer) texts; the
  gold answer may be empty. `caption` is one line, e.g. the IoU."""

  id: str
  turns: tuple
  panels: tuple
  caption: str = ""


def outline(mask_HW, width=1) -> np.ndarray:
  """Pixels of the mask within `width` pixels of its edge; bool (H, W)."""
  mask = np.asarray(mask_HW, bool)
  inner = mask
  for _ in range(width):
    padded = np.pad(inner, 1)
    inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1]
    inner &= padded[1:-1, :-2] & padded[1:-1, 2:]
  return mask & ~inner


def draw_masks(image_HWC, masks, *, alpha=ALPHA, line=None) -> np.ndarray:
  """A copy of the image with each mask tinted in its colour and outlined.

  The outline lies inside the mask: `line` pixels dark, then as many light. Overlapping
  masks are drawn in order. Raises ValueError when a mask has another size.
  """
  out = np.array(image_HWC, np.float32)
  line = line or max(1, round(max(out.shape[:2]) / 250))
  for i, mask_HW in enumerate(masks):
    mask = np.asarray(mask_HW) > 0
    if mask.shape != out.shape[:2]:
      raise ValueError(f"mask {mask.shape} does not fit the image {out.shape[:2]}")
    tint = np.array(mask_color(i), np.float32)
    out[mask] = (1 - alpha) * out[mask] + alpha * tint
    out[outline(mask, 2 * line)] = LIGHT
    out[outline(mask, line)] = DARK
  return np.round(out).astype(np.uint8)


def fit(image_HWC, masks, side) -> tuple[np.ndarray, list[np.ndarray]]:
  """Image (bilinear) and masks (nearest) scaled so that the longest side is `side`."""
  height, width = image_HWC.shape[:2]
  scale = side / max(height, width)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  image = Image.fromarray(np.asarray(image_HWC, np.uint8)).resize(
    size, Image.Resampling.BILINEAR
  )
  scaled = [
    np.asarray(
      Image.fromarray((np.asarray(m) > 0).astype(np.uint8)).resize(
        size, Image.Resampling.NEAREST
      )
    )
    for m in masks
  ]
  return np.asarray(image), scaled


def draw_panel(panel, side) -> np.ndarray:
  """The panel's image with its masks, longest side `side`; RGB uint8."""
  return draw_masks(*fit(panel.image_HWC, panel.masks, side))


def encode(image_HWC, fmt="PNG", quality=88) -> bytes:
  """Image file bytes; PNG, or JPEG of a quality from 1 to 95."""
  buffer = io.BytesIO()
  options = {"quality": quality} if fmt == "JPEG" else {"optimize": True}
  Image.fromarray(image_HWC).save(buffer, fmt, **options)
  return buffer.getvalue()


def save_mask(path, mask_HW) -> None:
  """A black and white PNG: 255 inside, 0 outside."""
  mask = (np.asarray(mask_HW) > 0).astype(np.uint8) * 255
  Image.fromarray(mask).save(path)


def save_overlay(path, image_HWC, masks) -> None:
  """The image with its masks as PNG, at the image's own size."""
  Image.fromarray(draw_masks(image_HWC, masks)).save(path)


def save_grid(path, examples, **sizes) -> None:
  """PNG with a row an example: its conversation, then its panels."""
  grid = Grid(**sizes)
  for example in examples:
    grid.add(example)
  grid.save(path)


class Grid:
  """Rows of examples that become one PNG; of each it keeps its small row alone."""

  def __init__(self, *, side=220, text_width=330, gap=10):
    self._sizes, self._rows = (side, text_width, gap), []

  def add(self, example) -> None:
    self._rows.append(_row(example, *self._sizes))

  def save(self, path) -> None:
    _, text_width, gap = self._sizes
    width = max((r.width for r in self._rows), default=text_width)
    height = sum(r.height + gap for r in self._rows) + gap
    sheet = Image.new("RGB", (width + 2 * gap, height), "white")
    top = gap
    for row in self._rows:
      sheet.paste(row, (gap, top))
      top += row.height + gap
    sheet.save(path)


def _row(example, side, text_width, gap):
  """One example as an image: text column, then the panels with their titles."""
  font = ImageFont.load_default(size=12)
  bold, line = ImageFont.load_default(size=13), 15
  lines = _lines(example, columns=text_width // 6)
  panels = [Image.fromarray(draw_panel(p, side)) for p in example.panels]
  tallest = max((p.height for p in panels), default=0)
  height = max(tallest + 20, line * len(lines) + 4)
  row = Image.new("RGB", (text_width + len(panels) * (side + gap), height), "white")
  pen = ImageDraw.Draw(row)
  for i, (text, color) in enumerate(lines):
    pen.text((0, i * line), text, fill=color, font=font)
  for i, (panel, picture) in enumerate(zip(example.panels, panels, strict=True)):
    left = text_width + gap + i * (side + gap)
    pen.text((left, 0), panel.title, fill=(60, 60, 60), font=bold)
    row.paste(picture, (left, 20))
  return row


def _lines(example, columns):
  """(text, colour) lines of the last turns, wrapped at `columns` characters."""
  wrap = textwrap.TextWrapper(width=columns, subsequent_indent="   ", max_lines=4)
  seen = 8 * columns  # letters; more do not reach the fourth line
  out = []
  for user, answer, _ in example.turns[-_MOST_TURNS:]:
    out += [(t, (20, 70, 140)) for t in wrap.wrap(f"U: {_plain(user[:seen])}")]
    out += [(t, (30, 30, 30)) for t in wrap.wrap(f"A: {_plain(answer[:seen])}")]
  if example.caption:
    out.append((example.caption, (120, 120, 120)))
  return out


def _plain(text):
  """One line without control characters, which a font cannot draw."""
  return "".join(c if c.isprintable() else " " for c in text)
