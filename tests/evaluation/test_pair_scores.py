"""Scores worked out in a box are those of the whole masks, to the last bit."""

import numpy as np
import pytest

from input_pipeline import mask_ops
from miras_jax.evaluation import canny, metrics, pair_scores
from tests.evaluation.masks import KINDS, random_mask


def plainly(pred_HW, true_HW):
  pred, true = np.asarray(pred_HW, bool), np.asarray(true_HW, bool)
  return {
    "inter": np.count_nonzero(pred & true),
    "pred": np.count_nonzero(pred),
    "true": np.count_nonzero(true),
    "biou": metrics.boundary_iou(pred, true),
    "biou_canny": metrics.published_biou(pred, true),
  }


def boxed(*masks):
  return [pair_scores.of_array(mask) for mask in masks]


def random_pairs(seed, count=60):
  rng = np.random.default_rng(seed)
  for i in range(count):
    height, width = rng.integers(1, 110, 2)
    true_HW = random_mask(rng, height, width)
    near_HW = np.roll(true_HW, rng.integers(0, 4, 2), (0, 1))
    yield (near_HW if i % 2 else random_mask(rng, height, width)), true_HW


@pytest.mark.parametrize("seed", range(4))
def test_scores_in_a_box_equal_those_of_the_whole_masks(seed):
  for pred_HW, true_HW in random_pairs(seed):
    got = pair_scores.scores(*boxed(pred_HW, true_HW), edges=True)
    assert got == plainly(pred_HW, true_HW)


def test_scores_of_run_lengths_equal_those_of_the_masks():
  pairs = list(random_pairs(9))
  rles = [tuple(mask_ops.encode_rle(mask) for mask in pair) for pair in pairs]
  got = pair_scores.scores_of_all(rles, edges=True, workers=2)
  assert got == [plainly(*pair) for pair in pairs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_canny_near_the_outline_is_scikit_images(kind, scale):
  rng = np.random.default_rng(KINDS.index(kind))
  for _ in range(25):
    mask_HW = random_mask(rng, *rng.integers(1, 90, 2), kind)
    (box,) = boxed(mask_HW)
    got = canny.edge_places(box.mask, box.corner, box.size, scale)
    want = metrics.canny_edges(mask_HW.astype(bool if scale == 1 else np.uint8))
    np.testing.assert_array_equal(got, np.flatnonzero(want))


def test_canny_in_strips_is_canny_at_once(monkeypatch):
  mask_HW = random_mask(np.random.default_rng(3), 80, 90, "blobs")
  once = canny.edge_places(mask_HW, (0, 0), mask_HW.shape, 1.0)
  monkeypatch.setattr(canny, "STRIP", 300)
  np.testing.assert_array_equal(
    canny.edge_places(mask_HW, (0, 0), mask_HW.shape, 1.0), once
  )


def test_target_with_ignored_pixels_counts_them_as_foreground():
  true_HW = np.zeros((20, 20), np.uint8)
  true_HW[2:9, 2:9], true_HW[9:15, 2:9] = 1, 255
  found = pair_scores.areas(*boxed(true_HW == 1, true_HW))
  assert found == {"inter": 49, "pred": 49, "true": 91}


def test_no_prediction_is_an_empty_one_of_the_targets_size():
  true_HW = random_mask(np.random.default_rng(1), 30, 40, "circles")
  rle = mask_ops.encode_rle(true_HW)
  got = pair_scores.scores(
    pair_scores.of_rle(None, rle), pair_scores.of_rle(rle), edges=True
  )
  assert got == plainly(np.zeros_like(true_HW), true_HW)


def test_masks_of_different_size_are_refused():
  with pytest.raises(ValueError, match="sizes differ"):
    pair_scores.scores(*boxed(np.ones((3, 4)), np.ones((4, 3))))


def test_intersections_and_ious_are_those_of_pycocotools():
  coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is absent")
  rng = np.random.default_rng(5)
  masks = [random_mask(rng, 40, 50) for _ in range(12)]
  rles = [coco.encode(np.asfortranarray(mask)) for mask in masks]
  want = coco.iou(rles, rles, [0] * len(rles))
  for i, one in enumerate(rles):
    for k, other in enumerate(rles):
      row = pair_scores.areas(pair_scores.of_rle(one), pair_scores.of_rle(other))
      union = row["pred"] + row["true"] - row["inter"]
      assert row["pred"] == coco.area(one)
      # Where both are empty pycocotools has 0, and here it is 1.
      assert row["inter"] / union == want[i, k] if union else want[i, k] == 0
