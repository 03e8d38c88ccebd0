"""COCO's polygons are drawn as COCO's own library draws them."""

import numpy as np
import pytest
from pycocotools import mask as coco

from input_pipeline import coco_masks, mask_ops

HEIGHT, WIDTH = 37, 53
pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")


def drawn_by_coco(polygon, height=HEIGHT, width=WIDTH):
  return coco.decode(coco.frPyObjects([list(map(float, polygon))], height, width))[
    ..., 0
  ]


@pytest.mark.parametrize("seed", range(60))
def test_a_polygon_is_that_of_the_reference_library(seed):
  rng = np.random.default_rng(seed)
  points = rng.uniform(-20, 70, (rng.integers(3, 30), 2))
  if seed % 3 == 0:
    points = np.rint(points)
  if seed % 4 == 0:
    points = np.repeat(points, 2, axis=0)  # equal neighbours
  mask_HW = coco_masks.union([points.reshape(-1).tolist()], HEIGHT, WIDTH)
  np.testing.assert_array_equal(mask_HW, drawn_by_coco(points.reshape(-1)))


def test_polygons_that_overlap_are_united():
  square, shifted = [4, 4, 20, 4, 20, 20, 4, 20], [10, 10, 30, 10, 30, 30, 10, 30]
  mask_HW = coco_masks.union([square, shifted], HEIGHT, WIDTH)
  np.testing.assert_array_equal(mask_HW, drawn_by_coco(square) | drawn_by_coco(shifted))
  assert mask_HW.max() == 1


def test_small_polygons_of_a_large_photograph_are_drawn_one_by_one():
  """Of 12 megapixels: each costs its own columns, not the whole picture."""
  corners = [[x, 9, x + 9, 9, x + 9, 40] for x in range(0, 2000, 20)]
  mask_HW = coco_masks.union(corners, 3000, 4000)
  assert mask_HW.sum() == 100 * mask_HW[:, :20].sum() > 0


@pytest.mark.parametrize(
  "segmentation",
  [[[0, 0, 9, 0, 9, 9]] * 40_000, [[0, 0, 4000, 0, 4000, 3000]] * 100,
   [{"size": [3000, 4000], "counts": [12_000_000]}] * 300],
)  # fmt: skip
def test_more_than_can_be_drawn_in_some_seconds_is_refused(segmentation):
  with pytest.raises(ValueError, match="too long to draw"):
    coco_masks.union(segmentation, 3000, 4000)


def test_rle_of_all_forms_are_read():
  mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
  mask_HW[3:9, 5:20] = 1
  rle = mask_ops.encode_rle(mask_HW)
  runs = {"size": [HEIGHT, WIDTH], "counts": _runs(mask_HW)}
  for segmentation in (rle, [rle], [rle, rle], runs):
    found = coco_masks.union(segmentation, HEIGHT, WIDTH)
    np.testing.assert_array_equal(found, mask_HW)


def _runs(mask_HW):
  flat = mask_HW.T.reshape(-1)
  edges = np.flatnonzero(np.diff(flat)) + 1
  return np.diff([0, *edges, flat.size]).tolist()


def test_nothing_is_an_empty_mask():
  assert not coco_masks.union([], HEIGHT, WIDTH).any()
  assert not coco_masks.union(None, HEIGHT, WIDTH).any()


def test_a_line_beside_a_polygon_is_left_out():
  square = [4, 4, 20, 4, 20, 20, 4, 20]
  mask_HW = coco_masks.union([square, [0, 0, 30, 30]], HEIGHT, WIDTH)
  np.testing.assert_array_equal(mask_HW, drawn_by_coco(square))


@pytest.mark.parametrize(
  ("segmentation", "reason"),
  [
    ([[1, 2, 3, 4]], "no polygon of three points"),
    ([[1, 2, 3]], "3 numbers, want pairs"),
    ([["1", 2]], "no number"),
    ([[0, 0, 9, float("nan"), 9, 9]], "not finite"),
    ([[0, 0, 9, 1e9, 9, 9]], "past 1e+06 pixels"),
    ([[0, 0, 1e6, 1e6] * 20], "pixels long"),
    ("polygon", "is a str"),
    ([5], "is a int"),
    ({"size": [2, 2], "counts": "4"}, "2x2"),
  ],
)
def test_what_is_no_segmentation_is_named(segmentation, reason):
  with pytest.raises(ValueError, match=reason.replace("+", r"\+")):
    coco_masks.union(segmentation, HEIGHT, WIDTH)
