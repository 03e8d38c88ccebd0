import json

import numpy as np
import pytest

from miras_jax.evaluation import metrics, text_metrics
from tests.shared_data import GOLDEN, needs_golden


def golden():
  return json.loads((GOLDEN / "metrics.json").read_text()), np.load(
    GOLDEN / "metrics.npz"
  )


def rectangle(top, left, bottom, right, size=20):
  mask = np.zeros((size, size), np.uint8)
  mask[top:bottom, left:right] = 1
  return mask


EMPTY = rectangle(0, 0, 0, 0)
SQUARE = rectangle(0, 0, 10, 10)  # 100 pixels
HALF = rectangle(0, 0, 10, 5)  # 50 of them


def table(*pairs, images=None, turns=None):
  targets = metrics.Targets()
  for i, (pred, true) in enumerate(pairs):
    image = images[i] if images else f"image{i}"
    targets.add(pred, true, image=image, turn=turns[i] if turns else 0)
  return targets.table()


def value(name, *pairs):
  return metrics.mask_metrics(table(*pairs), resamples=20)[name]["value"]


@needs_golden
@pytest.mark.parametrize(
  "ours, theirs",
  [
    (metrics.published_ciou, "cIoU"),
    (metrics.published_biou, "bIoU"),
    (metrics.published_roi_accuracy, "pixel_accuracy_roi"),
  ],
)
def test_published_metric_of_every_pair_and_its_mean(ours, theirs):
  if theirs == "bIoU":
    pytest.importorskip("skimage")
  expected, arrays = golden()
  pairs = {k: v for k, v in expected["pairs"].items() if isinstance(v, dict)}
  got = {k: ours(arrays[f"{k}/pred"], arrays[f"{k}/gt"]) for k in pairs}
  for name, numbers in pairs.items():
    assert got[name] == pytest.approx(numbers[theirs], abs=1e-6), name
  mean = expected["pairs"][f"mean_{theirs}"]
  assert np.mean(list(got.values())) == pytest.approx(mean, abs=1e-6)


@needs_golden
def test_published_validation_for_every_grouping():
  expected, arrays = golden()
  for case, numbers in expected["validate"].items():
    groups = [
      [(arrays[f"{k}/pred"], arrays[f"{k}/gt"]) for k in group]
      for group in numbers["groups"]
    ]
    for key, number in metrics.published_validate(groups).items():
      assert number == pytest.approx(numbers[key], abs=1e-6), (case, key)


@needs_golden
def test_intersection_union_leaves_out_ignored_pixels():
  expected, arrays = golden()
  for name, areas in expected["intersection_union"].items():
    got = metrics.intersection_union(arrays[f"{name}/pred"], arrays[f"{name}/gt"])
    for ours, key in zip(got, ("intersection", "union", "target"), strict=True):
      np.testing.assert_array_equal(ours, areas[key], err_msg=f"{name} {key}")


@needs_golden
def test_canny_edges_equal_the_published_ones():
  pytest.importorskip("skimage")
  _, arrays = golden()
  for name in {k.split("/")[0] for k in arrays}:
    edges = metrics.canny_edges(arrays[f"{name}/pred"].astype(bool))
    np.testing.assert_array_equal(edges, arrays[f"{name}/canny_pred_bool"])
    edges = metrics.canny_edges(arrays[f"{name}/gt"])
    np.testing.assert_array_equal(edges, arrays[f"{name}/canny_gt_uint8"])


def test_ciou_pools_pixels_and_giou_averages_targets():
  pairs = [(HALF, SQUARE), (EMPTY, HALF)]
  assert value("ciou", *pairs) == pytest.approx(50 / 150)
  assert value("giou", *pairs) == pytest.approx(0.25)


def test_both_empty_counts_one_in_giou_and_is_left_out_of_miou_no_empty():
  pairs = [(EMPTY, EMPTY), (HALF, SQUARE)]
  assert value("giou", *pairs) == pytest.approx(0.75)
  assert value("miou_no_empty", *pairs) == pytest.approx(0.5)


def test_micro_precision_pools_pixels_and_macro_averages_targets():
  pairs = [(SQUARE, HALF), (HALF, HALF)]
  assert value("precision_micro", *pairs) == pytest.approx(100 / 150)
  assert value("precision_macro", *pairs) == pytest.approx(0.75)
  assert value("recall_micro", *pairs) == 1.0
  assert value("f1_micro", *pairs) == pytest.approx(200 / 250)
  assert value("f1_macro", *pairs) == pytest.approx((100 / 150 + 1) / 2)


def test_thresholds_include_their_own_value():
  pairs = [(HALF, SQUARE), (SQUARE, SQUARE), (EMPTY, SQUARE)]
  assert value("p@0.5", *pairs) == pytest.approx(2 / 3)
  assert value("p@0.6", *pairs) == pytest.approx(1 / 3)


def test_no_target_accuracy_looks_at_empty_targets_only():
  pairs = [(EMPTY, EMPTY), (HALF, EMPTY), (EMPTY, HALF)]
  result = metrics.mask_metrics(table(*pairs), resamples=20)["no_target_accuracy"]
  assert (result["value"], result["n"]) == (0.5, 2)


def test_roi_accuracy_is_zero_for_an_empty_target():
  assert value("roi_accuracy", (EMPTY, EMPTY), (SQUARE, SQUARE)) == 0.5


def test_boundary_iou_forgives_the_inside_but_not_the_outline():
  big, hollow = rectangle(5, 5, 55, 55, 60), rectangle(5, 5, 55, 55, 60)
  hollow[20:40, 20:40] = 0
  shifted = rectangle(8, 8, 58, 58, 60)
  assert metrics.boundary_iou(big, big) == 1.0
  assert metrics.boundary_iou(shifted, big) < metrics.published_ciou(shifted, big)
  assert metrics.boundary_iou(hollow, big) > metrics.boundary_iou(shifted, big)


def test_boundary_band_is_two_percent_of_the_diagonal_and_includes_the_border():
  full = np.ones((300, 400), np.uint8)  # diagonal 500: a band of 10 pixels
  band = metrics.boundary_band(full)
  assert band[:10].all() and band[:, -10:].all()
  assert not band[10:-10, 10:-10].any()


def test_metric_without_any_row_has_no_value():
  result = metrics.mask_metrics(table((HALF, SQUARE)), resamples=20)
  assert result["no_target_accuracy"] == {
    "value": None,
    "low": None,
    "high": None,
    "n": 0,
  }


def test_empty_table_gives_no_values_and_no_error():
  result = metrics.mask_metrics(metrics.Targets().table(), resamples=20)
  assert result["ciou"]["value"] is None and result["ciou"]["n"] == 0


def test_interval_resamples_images_not_targets():
  """Twenty copies of one image carry no more information than one."""
  pairs = [(SQUARE, SQUARE), (EMPTY, SQUARE)]
  few = metrics.mask_metrics(table(*pairs, images=["a", "b"]))["giou"]
  many = metrics.mask_metrics(table(*pairs * 20, images=["a", "b"] * 20))["giou"]
  assert (few["low"], few["high"]) == (many["low"], many["high"]) == (0.0, 1.0)


def test_interval_matches_the_normal_one_for_many_images():
  rng = np.random.default_rng(0)
  hit_N = rng.random(400) < 0.3
  columns = {"rate": (hit_N, np.ones(400))}
  got = metrics.summarise(columns, np.arange(400), resamples=4000)["rate"]
  half = 1.96 * np.sqrt(hit_N.mean() * (1 - hit_N.mean()) / 400)
  assert got["low"] == pytest.approx(hit_N.mean() - half, abs=0.01)
  assert got["high"] == pytest.approx(hit_N.mean() + half, abs=0.01)


def test_same_seed_same_interval():
  pairs = [(SQUARE, SQUARE), (EMPTY, SQUARE), (HALF, SQUARE)] * 3
  one, two, other = (
    metrics.mask_metrics(table(*pairs), resamples=50, seed=seed) for seed in (1, 1, 2)
  )
  assert one == two
  assert one != other


def test_per_turn_splits_by_turn_from_one():
  rows = table((SQUARE, SQUARE), (EMPTY, SQUARE), turns=[0, 3])
  got = metrics.per_turn(rows, resamples=20)
  assert {k: v["ciou"]["value"] for k, v in got.items()} == {"1": 1.0, "4": 0.0}


def test_masks_of_different_size_are_refused():
  with pytest.raises(ValueError, match="sizes differ"):
    metrics.Targets().add(EMPTY, np.zeros((3, 3)), image="a")


def test_bleu_from_summed_counts_equals_sacrebleu():
  sacrebleu = pytest.importorskip("sacrebleu")
  answers = ["the red cup on the left table", "sure it is [SEG] .", "a dog"]
  references = ["the red cup on the right table", "sure , it is [SEG] .", "a cat runs"]
  images = [0, 0, 0, 1, 1, 1]
  got = text_metrics.text_metrics(2 * answers, 2 * references, images, resamples=5)
  got, expected = got["bleu4"], sacrebleu.corpus_bleu(answers, [references]).score / 100
  # Two images alike: every resample is the same, so the interval is our own formula.
  assert got["low"] == got["high"] == pytest.approx(expected, abs=1e-9)
  assert got["value"] == pytest.approx(expected)


def test_rouge_l_is_one_for_equal_texts():
  pytest.importorskip("rouge_score")
  got = text_metrics.text_metrics(["a red cup"], ["a red cup"], [0], resamples=5)
  assert got["rouge_l"]["value"] == 1.0


def test_distinct_counts_repeated_words_once():
  assert text_metrics.distinct(["a b a", "a"], 1) == (0.5, 4)
  assert text_metrics.distinct(["a b a", "a"], 2) == (1.0, 2)


def test_one_image_has_values_and_no_interval():
  """It says nothing of others: an interval without width would look like certainty."""
  columns = {
    "a": (np.array([1.0, 0.0]), np.ones(2)),
    "b": (np.ones(2), np.array([1, 0])),
  }
  alone = metrics.summarise(columns, ["x", "x"])
  assert alone["a"] == {"value": 0.5, "low": None, "high": None, "n": 2}
  two = metrics.summarise(columns, ["x", "y"])
  assert two["a"]["low"] == 0.0 and two["a"]["high"] == 1.0
  assert two["b"]["low"] is None  # the other image has no row of it
