"""Masks: the published raster rule, labelme shapes, bounded run-length decoding."""

import json
import time

import hypothesis
import numpy as np
import pytest
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from input_pipeline import mask_ops
from tests.shared_data import GOLDEN, needs_golden

RASTER_CASES = (
  "polygon", "multi", "partial_label", "partial_label_reversed", "no_match", "empty",
  "out_of_bounds", "rectangle_two_points", "self_intersecting", "circle_two_points",
)  # fmt: skip


def published_mask(case):
  """The mask of a golden case by the published rule, label contains target."""
  target = json.loads((GOLDEN / "raster.json").read_text())[case]["target"].lower()
  document = json.loads((GOLDEN / "raster" / f"{case}.json").read_text())
  shapes = [
    (s["shape_type"], s["points"])
    for s in document["shapes"]
    if target in s["label"].lower()
  ]
  size = document["imageHeight"], document["imageWidth"]
  return mask_ops.rasterise_shapes(shapes, *size, published=True)


@needs_golden
@pytest.mark.parametrize("case", RASTER_CASES)
def test_published_raster_rule(case):
  golden = np.load(GOLDEN / "raster.npz")[case]
  np.testing.assert_array_equal(published_mask(case), golden)


@needs_golden
def test_reasonseg_raster_rule():
  document = json.loads((GOLDEN / "raster" / "reasonseg.json").read_text())
  shapes = [(s["label"], s["points"]) for s in document["shapes"]]
  golden = np.load(GOLDEN / "raster.npz")["reasonseg"]
  np.testing.assert_array_equal(mask_ops.rasterise_reasonseg(shapes, 40, 56), golden)


def test_rectangle_fills_between_its_corners():
  mask = mask_ops.rasterise_shapes([("rectangle", [[3, 2], [1, 5]])], 8, 8)
  expected = np.zeros((8, 8), np.uint8)
  expected[2:6, 1:4] = 1
  np.testing.assert_array_equal(mask, expected)


def test_circle_is_a_disc_about_its_first_point():
  mask = mask_ops.rasterise_shapes([("circle", [[20, 15], [30, 15]])], 40, 56)
  rows, columns = np.mgrid[:40, :56]
  distance = np.hypot(rows - 15, columns - 20)
  assert mask[distance <= 9].all() and not mask[distance >= 11].any()


def test_polygon_far_outside_is_clipped_not_wrapped():
  far = mask_ops.MAX_COORDINATE
  mask = mask_ops.rasterise_polygons(
    [[[10, 10], [far, 10], [far, 30], [10, 30]]], 40, 56
  )
  expected = np.zeros((40, 56), np.uint8)
  expected[10:31, 10:] = 1
  np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e19, -1e7])
def test_impossible_coordinate_is_refused(value):
  with pytest.raises(ValueError, match="not finite or past"):
    mask_ops.rasterise_polygons([[[0, 0], [value, 0], [0, 4]]], 8, 8)


@pytest.mark.parametrize(
  ("points", "expected"),
  [
    ([], True),
    ([[1, 1], [5, 5]], True),
    ([[10, 10], [50, 50], [90, 90]], True),
    ([[3, 3], [3, 3], [3, 3]], True),
    ([[0, 0], [4, 0], [0, 4]], False),
    ([[10, 10], [90, 90], [90, 10], [10, 90]], False),  # crosses itself, signed area 0
  ],
)
def test_degenerate_polygons(points, expected):
  assert mask_ops.is_degenerate(points) is expected


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40))
)
def test_rle_round_trip(values):
  mask = (values > 127).astype(np.uint8)
  rle = mask_ops.encode_rle(mask)
  np.testing.assert_array_equal(mask_ops.decode_rle(rle), mask)
  assert mask_ops.rle_area(rle) == mask.sum()
  assert json.loads(json.dumps(rle)) == rle


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)),
  hypothesis.strategies.integers(0, 255),
)
def test_an_rle_is_cocos_to_the_letter(values, threshold):
  mask = (values > threshold).astype(np.uint8)
  theirs = coco.encode(np.asfortranarray(mask))
  assert mask_ops.encode_rle(mask)["counts"] == theirs["counts"].decode()
  np.testing.assert_array_equal(mask_ops.decode_rle(theirs), mask)


def test_long_runs_of_an_rle_are_cocos_too():
  mask = np.zeros((1500, 2000), np.uint8)
  mask[300:700, 500:1800] = 1
  mask[-1, -1] = 1
  theirs = coco.encode(np.asfortranarray(mask))["counts"].decode()
  assert mask_ops.encode_rle(mask)["counts"] == theirs


def test_the_rle_of_nothing_is_that_of_a_mask_without_a_pixel():
  mask = np.zeros((480, 640), bool)
  assert mask_ops.empty_rle(480, 640) == mask_ops.encode_rle(mask)


def test_uncompressed_rle_is_read():
  mask = mask_ops.decode_rle({"size": [2, 3], "counts": [1, 2, 3]})
  np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
  "rle",
  [
    {"size": [100_000, 100_000], "counts": [10**10]},
    {"size": [0, 5], "counts": []},
    {"size": [-4, -4], "counts": [16]},
    {"size": [4, 4], "counts": [17]},
    {"size": [4, 4], "counts": [8, 4]},
    {"size": [4, 4], "counts": [20, -4]},
    {"size": [4, 4], "counts": "PPPPPP1"},
    {"size": [4, 4], "counts": "P"},
    {"size": [4, 4], "counts": "\x00\xff"},
    {"size": [4, 4], "counts": [1.5, 14.5]},
    {"size": [4, 4], "counts": ["16"]},
    {"size": "big", "counts": [16]},
    {"size": [float("inf"), 4], "counts": [16]},
    {"counts": [16]},
    {"size": [4, 4], "counts": 16},
    {"size": [4, 4], "counts": "0" * 100_000},
  ],
)
def test_hostile_rle_is_refused_quickly(rle):
  start = time.monotonic()
  with pytest.raises(ValueError, match="RLE"):
    mask_ops.decode_rle(rle)
  assert time.monotonic() - start < 1


@pytest.mark.parametrize("kind", ["noise", "blocks", "one value"])
def test_a_map_of_values_is_the_same_as_a_mask_for_each(kind):
  rng = np.random.default_rng(3)
  map_HW = rng.integers(0, 4, (9, 13)).astype(np.uint8) * 80
  if kind == "blocks":
    map_HW = np.repeat(map_HW, 5, axis=0)
  if kind == "one value":
    map_HW[:] = 7
  masks = mask_ops.encode_values(map_HW)
  assert list(masks) == sorted(set(map_HW.flat))
  for value, rle in masks.items():
    assert rle == mask_ops.encode_rle(map_HW == value)


@pytest.mark.parametrize("counts", [None, 5, True, {}, {"a": 1}])
def test_counts_of_another_type_are_refused(counts):
  with pytest.raises(ValueError, match="RLE counts are a"):
    mask_ops.decode_rle({"size": [2, 3], "counts": counts})


def test_overlap_of_runs_is_that_of_the_pixels():
  rng = np.random.default_rng(0)
  for share in (0.0, 0.2, 0.9, 1.0):
    first, second = rng.random((2, 13, 7)) < [[[0.5]], [[share]]]
    found = mask_ops.rle_overlap(*map(mask_ops.encode_rle, (first, second)))
    assert found == (first & second).sum()


def test_overlap_of_masks_of_two_sizes_is_refused():
  with pytest.raises(ValueError, match="does not lie on"):
    mask_ops.rle_overlap(mask_ops.empty_rle(3, 4), mask_ops.empty_rle(4, 3))
