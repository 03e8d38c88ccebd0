"""Masks of an image on the padded square canvas that SAM sees it on.

Of a mask that shrinks only the box around it is decoded and summed up, unless that is
much of the image: of a photograph of 4 megapixels, 0.5 to 5 ms in place of 9.
"""

import cv2
import numpy as np

from input_pipeline import image_ops, mask_ops

_HALF = 0.5 - 1e-9  # of a cell: sums of products of floats are not exact
# Of an image so small, or a box of so much of it, OpenCV's pass over all is faster.
_SMALL, _MUCH = 2**16, 0.35


def rle_to_canvas(rle, size):
  """COCO RLE -> mask_SS uint8 0/1 as `mask_to_canvas` makes it.

  Raises ValueError as `mask_ops.decode_rle` does.
  """
  corner, box_HW = mask_ops.decode_rle_box(rle)
  return _on_canvas(corner, box_HW, tuple(rle["size"]), size)


def mask_to_canvas(mask_HW, size):
  """Mask of the image -> mask_SS uint8 0/1 on the padded SAM canvas.

  Shrinking: a cell is set when at least half its area is, to a 500th of it; of a mask
  that would vanish the best covered cell. Enlarging: nearest, half-pixel centres.
  """
  mask_HW = (np.asarray(mask_HW) != 0).view(np.uint8)
  left, top, width, height = cv2.boundingRect(mask_HW)
  box_HW = mask_HW[top : top + height, left : left + width]
  return _on_canvas((top, left), box_HW, mask_HW.shape, size)


def _on_canvas(corner, box_HW, image_hw, size):
  """The mask that is `box_HW` from `corner` (top, left) on, and nothing beside it."""
  height, width = image_ops.resized_hw(*image_hw, size)
  mask_SS = np.zeros((size, size), np.uint8)
  valid_hw = mask_SS[:height, :width]  # a view: what is image
  area = image_hw[0] * image_hw[1]
  if height * width >= area:
    whole_HW, form = _whole(corner, box_HW, image_hw), cv2.INTER_NEAREST_EXACT
    valid_hw[:] = cv2.resize(whole_HW, (width, height), interpolation=form)
    return mask_SS
  if area <= _SMALL or box_HW.size > _MUCH * area:
    bytes_HW = _whole(corner, box_HW, image_hw) * np.uint8(255)
    cover_hw = cv2.resize(bytes_HW, (width, height), interpolation=cv2.INTER_AREA)
    valid_hw[:] = cover_hw >= 128
  if box_HW.size and not valid_hw.any():  # not done yet, or it would vanish
    _shrink_box(valid_hw, corner, box_HW, image_hw)
  return mask_SS


def _whole(corner, box_HW, image_hw):
  (top, left), (height, width) = corner, box_HW.shape
  mask_HW = np.zeros(image_hw, np.uint8)
  mask_HW[top : top + height, left : left + width] = box_HW
  return mask_HW


def _shrink_box(valid_hw, corner, box_HW, image_hw):
  """Sets the cells of `valid_hw` that a box covers by half, or the best covered."""
  (rows, row_edges), (columns, column_edges) = map(
    _cells, corner, box_HW.shape, image_hw, valid_hw.shape
  )
  cover_hw = _cover(box_HW, row_edges, column_edges)
  inside_hw = cover_hw >= _HALF
  if not inside_hw.any():
    inside_hw.flat[np.argmax(cover_hw)] = True
  valid_hw[rows, columns] = inside_hw


def _cells(start, length, of_image, cells):
  """(slice of the cells of one axis that a box touches, their edges in the box)."""
  scale = of_image / cells
  first, end = int(start / scale), min(int(np.ceil((start + length) / scale)), cells)
  return slice(first, end), np.arange(first, end + 1) * scale - start


def _cover(box_HW, row_edges, column_edges):
  """Share of each cell that is set. Within a pixel the integral of an image is linear
  in each direction, so that it is known at every edge."""
  sums = _at(cv2.integral(box_HW), row_edges)
  sums = _at(sums.T, column_edges).T
  area = np.diff(row_edges).mean() * np.diff(column_edges).mean()
  return np.diff(np.diff(sums, axis=0), axis=1) / area


def _at(sums, edges):
  """Rows of `sums` at edges between them; those beyond are the first and the last."""
  edges = np.clip(edges, 0, len(sums) - 1)
  before = np.minimum(edges.astype(np.int64), len(sums) - 2)
  low, high = sums[before], sums[before + 1]
  return low + (edges - before)[:, None] * (high - low)
