"""One mask of an answer: its pixels, its score, its words, and the forms it is sent in.

H W image rows and columns.
"""

import re
from typing import NamedTuple

import cv2
import numpy as np

from input_pipeline import mask_ops

# A name that answers put before its [SEG], or the [SEG] alone.
_SPAN = re.compile(r"(?:\[OBJ\](?:(?!\[OBJ\]|\[SEG\]).)*)?\[SEG\]", re.DOTALL)


class Mask(NamedTuple):
  """array: bool (H, W) of the image's size. iou: what the model thinks that it overlaps
  with the truth. span: where its words stand in the answer, `text[start:end]`."""

  array: np.ndarray
  iou: float
  span: tuple[int, int]

  def rle(self) -> dict:
    """COCO run-length encoding, {"size": [H, W], "counts": str}."""
    return mask_ops.encode_rle(self.array)

  def polygons(self) -> list[list[tuple[int, int]]]:
    """Outlines as lists of (x, y) pixels; holes are outlines, too (even-odd)."""
    found, _ = cv2.findContours(
      self.array.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    return [[(int(x), int(y)) for x, y in outline[:, 0]] for outline in found]


def seg_spans(text: str) -> list[tuple[int, int]]:
  """Where the words of each [SEG] of an answer stand."""
  return [match.span() for match in _SPAN.finditer(text)]
