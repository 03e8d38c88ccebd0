"""Photographs of coloured boxes, of which everything is known."""

import cv2
import numpy as np

from input_pipeline import mask_ops
from input_pipeline.annotations.photo import LabelledPhoto, Region

HEIGHT, WIDTH = 100, 120
BACKGROUND = (128, 200, 160)
RGB = {
  "red": (200, 30, 35), "blue": (40, 90, 200), "white": (245, 245, 243),
  "black": (22, 22, 24), "yellow": (245, 220, 60),
}  # fmt: skip


def box_mask(x0, y0, x1, y1):
  mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
  mask_HW[y0:y1, x0:x1] = 1
  return mask_HW


def draw(*items, **options):
  """(name, box or list of boxes, colour, *more of Region) -> photo, image. A box is
  x0, y0, x1, y1."""
  image_HWC = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
  regions = []
  for name, boxes, colour, *more in items:
    boxes = [boxes] if isinstance(boxes, tuple) else boxes
    mask_HW = np.maximum.reduce([box_mask(*box) for box in boxes])
    image_HWC[mask_HW > 0] = RGB[colour]
    regions.append(Region(name, mask_ops.encode_rle(mask_HW), *more))
  photo = LabelledPhoto(
    image=cv2.imencode(".png", image_HWC[..., ::-1])[1].tobytes(),
    image_id="drawn",
    height=HEIGHT,
    width=WIDTH,
    regions=tuple(regions),
    **options,
  )
  return photo, image_HWC


def street(**options):
  """Four things of different places, sizes and colours; the shoes are two pieces."""
  return draw(
    ("hat", (50, 4, 70, 14), "red"),
    ("coat", (40, 18, 80, 60), "blue"),
    ("bag", (84, 44, 104, 64), "white"),
    ("shoes", [(42, 84, 54, 94), (62, 84, 74, 94)], "black"),
    instances=False,
    **options,
  )
