"""Photographs with masks over them, as SVG in a page.

A photograph is embedded once, whatever the number of pictures of it; masks are outlines
of some hundred bytes over it, sharp at any size. Every outline has a dark and a light
tone, so that it shows on any picture; the target's is dashed, so that colour is not
needed to tell it.
"""

import base64
import dataclasses
import io
import math
import re

import cv2
import numpy as np
from PIL import Image

from miras_jax import drawing
from miras_jax.evaluation.report.markup import text

UNITS = 512  # of the longest side of a picture, what outlines are drawn in
MOST_PATH = 6000  # letters of one outline
# (longest side in pixels, JPEG quality), from the best to the least.
LEVELS = (
  (960, 82), (800, 80), (680, 78), (580, 76), (500, 74),
  (430, 70), (370, 64), (320, 58), (270, 52), (224, 45),
)  # fmt: skip
_DEFINED = (
  '<svg class="defs" width="0" height="0" aria-hidden="true"><defs>{}</defs></svg>'
)


@dataclasses.dataclass(frozen=True)
class Layer:
  """A mask over a photograph. dashed: an outline alone, as targets are drawn; else
  tinted in the colour of `place`. number: written into it."""

  mask_HW: np.ndarray
  place: int = 0
  dashed: bool = False
  number: str = ""


class Album:
  """The photographs of a page, each embedded once.

  `add` a photograph, then `picture` it as often as wanted; `definitions` goes anywhere
  into the page and makes the photographs visible.
  """

  def __init__(self):
    self._photos, self._numbers, self._outlines = [], {}, 0

  def add(self, image_HWC, key=None) -> int:
    """Keeps a photograph as JPEG; the number that `picture` takes. One of a `key` that
    is known already is not kept again."""
    if key is None or key not in self._numbers:
      self._photos.append((_hw(image_HWC), _jpeg(image_HWC, *LEVELS[0])))
      self._numbers[key] = len(self._photos) - 1
    return self._numbers[key]

  def picture(self, number, layers, title) -> str:
    """SVG of a photograph with Layers over it. title: what it shows, in words."""
    (height, width), _ = self._photos[number]
    drawn = "".join(self._layer(layer) for layer in layers)
    return (
      f'<svg class="picture" viewBox="0 0 {width} {height}" role="img"'
      f' aria-label="{text(title)}"><use href="#photo{number}"/>'
      f'<g class="masks">{drawn}</g></svg>'
    )

  def definitions(self, most_bytes, page) -> str:
    """The photographs that the text of a page shows, in at most `most_bytes` where the
    smallest of LEVELS allows it."""
    used = sorted({int(number) for number in re.findall(r'"#photo(\d+)"', page)})
    for level in LEVELS:
      images, whole = self._images(used, level, most_bytes - len(_DEFINED))
      if whole:
        break
    else:
      images, _ = self._images(used, LEVELS[-1], math.inf)
    return _DEFINED.format("".join(images))

  def _images(self, used, level, most_bytes):
    """(`<image>` of the used photographs until they take too much, whether all fit)."""
    images, size = [], 0
    for i in used:
      hw, data = self._photos[i]
      images.append(
        _image(i, hw, data if level == LEVELS[0] else _smaller(data, *level))
      )
      size += len(images[-1])
      if size > most_bytes:
        return images, False
    return images, True

  def _layer(self, layer):
    path = outline_path(layer.mask_HW)
    if not path:
      return ""
    self._outlines += 1
    name = f"mask{self._outlines}"
    use, kind = f'<use href="#{name}" class="', " dashed" if layer.dashed else ""
    place = layer.place % len(drawing.COLORS)
    tint = "" if layer.dashed else f'{use}tint c{place}"/>'
    return (
      # An attribute: browsers do not take this one from a style through `use`.
      f'<defs><path id="{name}" vector-effect="non-scaling-stroke" d="{path}"/></defs>'
      f'{tint}{use}dark{kind}"/>{use}light{kind}"/>{_badge(layer)}'
    )


def _badge(layer):
  """The number of a mask, where it is widest."""
  if not layer.number:
    return ""
  mask = np.pad(_resized(layer.mask_HW), 1)
  depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
  y, x = np.unravel_index(np.argmax(depth), depth.shape)
  return f'<text class="badge" x="{x}" y="{y}">{text(layer.number)}</text>'


def outline_path(mask_HW) -> str:
  """The mask's outline as the `d` of an SVG path in a frame of UNITS; "" if empty.

  Simplified until it is short: what is smallest goes first, the largest part stays.
  """
  mask = _resized(mask_HW)
  if not mask.any():
    return ""
  found, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
  contours = sorted(found, key=cv2.contourArea, reverse=True)
  tolerance, least = 0.8, 6.0
  while True:
    kept = [c for c in contours[1:] if cv2.contourArea(c) >= least]
    path = "".join(_part(c, tolerance) for c in (contours[0], *kept))
    if len(path) <= MOST_PATH or tolerance > UNITS:
      return path
    tolerance, least = 1.6 * tolerance, 3 * least


def _part(contour, tolerance):
  """One closed line: where it starts, then steps from point to point."""
  points = cv2.approxPolyDP(contour, tolerance, True)[:, 0]
  if len(points) < 3:  # a speck: a square that can be seen
    x, y = contour[:, 0].mean(axis=0).astype(int)
    points = np.array([(x - 2, y - 2), (x + 2, y - 2), (x + 2, y + 2), (x - 2, y + 2)])
  steps = np.diff(points, axis=0)
  (x, y), tail = points[0], "".join(f"l{dx} {dy}" for dx, dy in steps)
  return f"M{x} {y}{tail}z"


def _hw(image):
  """(height, width) in UNITS, whatever the photograph's own size."""
  height, width = image.shape[:2]
  scale = UNITS / max(height, width)
  return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(mask_HW):
  """The mask in UNITS, uint8 of 0 or 1; a part that is thin stays visible."""
  mask = (np.asarray(mask_HW) > 0).astype(np.uint8)
  height, width = _hw(mask)
  if max(mask.shape) > UNITS:
    area = cv2.resize(mask * 255, (width, height), interpolation=cv2.INTER_AREA)
    mask = (area >= min(128, area.max())).astype(np.uint8) & (area > 0)
    return mask.astype(np.uint8)
  return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


def _jpeg(image_HWC, side, quality):
  if max(image_HWC.shape[:2]) > side:
    image_HWC, _ = drawing.fit(image_HWC, (), side)
  return drawing.encode(np.ascontiguousarray(image_HWC), "JPEG", quality)


def _smaller(data, side, quality):
  with Image.open(io.BytesIO(data)) as photo:
    return _jpeg(np.asarray(photo.convert("RGB")), side, quality)


def _image(number, hw, data):
  height, width = hw
  source = base64.b64encode(data).decode("ascii")
  return (
    f'<image id="photo{number}" width="{width}" height="{height}"'
    f' preserveAspectRatio="none" href="data:image/jpeg;base64,{source}"/>'
  )
