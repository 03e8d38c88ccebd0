"""Every mask metric, each averaging convention under its own name, with intervals.

A `Targets` table holds one row a target: areas, image, turn. Every metric is a sum of
`num` over a sum of `den`, so tables of several hosts add up and the bootstrap over
images is one matrix product.

| name | convention |
| --- | --- |
| `ciou` | sum of intersections / sum of unions |
| `giou` | mean IoU; 1 where both masks are empty |
| `miou_no_empty` | mean IoU of the targets whose true mask is not empty |
| `precision`, `recall`, `f1` | `_micro`: pooled pixels; `_macro`: mean over targets |
| `p@0.5` .. `p@0.9` | share of targets with IoU at least that; both empty counts 1 |
| `biou` | mean boundary IoU (Cheng et al. 2021), band 2 % of the image diagonal |
| `biou_canny` | mean published form: overlap of Canny edges, no band |
| `roi_accuracy` | mean recall of the true pixels, 0 for an empty target (published) |
| `no_target_accuracy` | share of the empty targets that are answered by an empty mask |
| `n_acc`, `t_acc` | gRefCOCO: that share; of the others, the share with some mask |
| `n_acc@50px`, `t_acc@50px` | the same, a mask of under 50 pixels counted as empty |

N targets, G images, R resamples, K metrics.
"""

import dataclasses

import cv2
import numpy as np

from miras_jax.evaluation import pair_scores
from miras_jax.evaluation.pair_scores import BAND

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
SPECK = 50  # pixels: a smaller mask says that there is no target (GRES, CVPR 2023)


# -- one pair of masks --------------------------------------------------------------


def boundary_band(mask_HW, band=BAND):
  """Pixels of the mask within `band` * diagonal of its outline; bool (H, W).

  The image border counts as outline (arXiv 2103.16562, their `mask_to_boundary`).
  """
  mask_HW = np.asarray(mask_HW, np.uint8)
  steps = pair_scores.band_steps(mask_HW.shape, band)
  padded = np.pad(mask_HW, 1)
  inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)
  return (mask_HW - inner[1:-1, 1:-1]).astype(bool)


def boundary_iou(pred_HW, true_HW, band=BAND):
  """IoU of the two boundary bands; 1 where both masks are empty."""
  pred, true = boundary_band(pred_HW, band), boundary_band(true_HW, band)
  union = np.count_nonzero(pred | true)
  return np.count_nonzero(pred & true) / union if union else 1.0


def canny_edges(mask_HW) -> np.ndarray:
  """Canny edge pixels with the published thresholds (0.1, 0.3) and sigma 1."""
  from skimage.feature import canny

  return canny(mask_HW, sigma=1, low_threshold=0.1, high_threshold=0.3)


def published_biou(pred_HW, true_HW) -> float:
  """Published bIoU: exact overlap of Canny edges; 0 (not 1) where both are empty.

  The prediction enters Canny as boolean and the target as uint8, as published.
  """
  pred = canny_edges(np.asarray(pred_HW, bool))
  true = canny_edges(np.asarray(true_HW, np.uint8))
  return np.count_nonzero(pred & true) / (np.count_nonzero(pred | true) + 1e-5)


def published_ciou(pred_HW, true_HW) -> float:
  """IoU of one pair, 1 if both are empty; ignore pixels (255) count as foreground."""
  pred, true = np.asarray(pred_HW, bool), np.asarray(true_HW, bool)
  union = np.count_nonzero(pred | true)
  return np.count_nonzero(pred & true) / union if union else 1.0


def published_roi_accuracy(pred_HW, true_HW) -> float:
  """Share of the pixels with target 1 that are predicted; 0 if there are none."""
  roi = np.asarray(true_HW) == 1
  count = np.count_nonzero(roi)
  return np.count_nonzero(np.asarray(pred_HW, bool) & roi) / count if count else 0.0


def intersection_union(pred_HW, true_HW, ignore=255) -> tuple[np.ndarray, ...]:
  """Areas of background and foreground, pixels with target `ignore` left out.

  Returns (intersection (2,), union (2,), target (2,)) in pixels, float64.
  """
  true_HW = np.asarray(true_HW)
  keep = true_HW != ignore
  pred, true = np.asarray(pred_HW, bool)[keep], true_HW[keep].astype(bool)
  inside = [np.count_nonzero(~pred & ~true), np.count_nonzero(pred & true)]
  areas = [[np.count_nonzero(~x), np.count_nonzero(x)] for x in (pred, true)]
  inside, (pred_2, true_2) = np.array(inside, float), np.array(areas, float)
  return inside, pred_2 + true_2 - inside, true_2


def published_validate(groups) -> dict:
  """The four numbers of the published validation: giou, ciou, giou_true, ciou_true.

  `groups` holds, for each image, its (prediction, target) pairs. `giou` and `ciou`
  average background and foreground; only the `_true` ones are about the target.
  """
  total_i, total_u, ratio, count = np.zeros(2), np.zeros(2), np.zeros(2), 0
  for pairs in groups:
    for pred_HW, true_HW in pairs:
      inter, union, _ = intersection_union(pred_HW, true_HW)
      total_i, total_u, count = total_i + inter, total_u + union, count + 1
      ratio += inter / (union + 1e-5) + (union == 0)
  ciou, giou = total_i / (total_u + 1e-10), ratio / (count + 1e-5)
  return {
    "giou": giou.mean(),
    "ciou": ciou.mean(),
    "giou_true": giou[1],
    "ciou_true": ciou[1],
  }


# -- the table of targets -----------------------------------------------------------


@dataclasses.dataclass
class Targets:
  """Accumulates one row a target. Masks may be of any, equal, size.

  `canny=True` also computes the published edge overlap, which takes longest.
  """

  canny: bool = False
  rows: list = dataclasses.field(default_factory=list)

  def add(self, pred_HW, true_HW, *, image, conversation="", turn=0, index=0):
    """Scores one predicted mask; returns the row. Empty masks are all zeros."""
    pair = pair_scores.of_array(pred_HW), pair_scores.of_array(true_HW)
    return self._add(pair, image, conversation, turn, index)

  def add_rle(self, rle, true_rle, *, image, conversation="", turn=0, index=0):
    """As `add`, of COCO RLEs; None is an empty prediction. ValueError: broken ones."""
    pair = pair_scores.of_rle(rle, true_rle), pair_scores.of_rle(true_rle)
    return self._add(pair, image, conversation, turn, index)

  def _add(self, pair, image, conversation, turn, index):
    row = {
      "image": str(image),
      "conversation": str(conversation),
      "turn": int(turn),
      "index": int(index),
    } | pair_scores.scores(*pair, edges=self.canny)
    self.rows.append(row)
    return row

  def table(self):
    """Columns as arrays of length N."""
    keys = self.rows[0] if self.rows else ("image", "inter", "pred", "true", "biou")
    return {k: np.array([row[k] for row in self.rows]) for k in keys}


def iou(row):
  """IoU of one row of `Targets` or of all rows of a table; 1 where both are empty."""
  return _ratio_or(row["inter"], row["pred"] + row["true"] - row["inter"], 1.0)


def _ratio_or(num, den, otherwise):
  """num / den; `otherwise` where den is 0."""
  num, den = np.asarray(num, float), np.asarray(den, float)
  return np.where(den > 0, num / np.maximum(den, 1), otherwise)


def metric_columns(table):
  """{metric: (num_N, den_N)}; the metric is sum(num) / sum(den) over the targets."""
  inter, pred, true = (table[k].astype(float) for k in ("inter", "pred", "true"))
  union, one = pred + true - inter, np.ones_like(inter)
  iou_N, empty = iou(table), true == 0
  blank = (empty & (pred == 0)).astype(float)  # the value where both are empty
  speck = pred < SPECK
  columns = {
    "ciou": (inter, union),
    "giou": (iou_N, one),
    "miou_no_empty": (iou_N * ~empty, ~empty),
    "precision_micro": (inter, pred),
    "recall_micro": (inter, true),
    "f1_micro": (2 * inter, pred + true),
    "precision_macro": (_ratio_or(inter, pred, blank), one),
    "recall_macro": (_ratio_or(inter, true, blank), one),
    "f1_macro": (_ratio_or(2 * inter, pred + true, 1.0), one),
    **{f"p@{t}": (iou_N >= t, one) for t in THRESHOLDS},
    "biou": (table["biou"], one),
    "roi_accuracy": (_ratio_or(inter, true, 0.0), one),
    "no_target_accuracy": (blank, empty),
    "n_acc": (blank, empty),
    "t_acc": (~empty & (pred > 0), ~empty),
    f"n_acc@{SPECK}px": (empty & speck, empty),
    f"t_acc@{SPECK}px": (~(empty | speck), ~empty),
  }
  if "biou_canny" in table:
    columns["biou_canny"] = (table["biou_canny"], one)
  return columns


def seg_columns(due_N, made_N):
  """Columns over answers: [SEG] that the gold answer has, [SEG] that were generated.

  seg_rate         answers that contain [SEG] when one is due
  seg_count_exact  answers with exactly as many [SEG] as are due
  false_seg_rate   answers that contain [SEG] when none is due
  surplus_seg      [SEG] beyond those due, per answer
  """
  is_due_N, has_N = due_N > 0, made_N > 0
  one_N = np.ones(len(due_N))
  return {
    "seg_rate": (is_due_N & has_N, is_due_N),
    "seg_count_exact": (due_N == made_N, one_N),
    "false_seg_rate": (~is_due_N & has_N, ~is_due_N),
    "surplus_seg": (np.maximum(made_N - due_N, 0), one_N),
  }


# -- intervals ----------------------------------------------------------------------


def summarise(columns, image_N, *, resamples=1000, seed=0):
  """{metric: {"value", "low", "high", "n"}} with 95 % intervals over images.

  `columns` is {metric: (num_N, den_N)}; `n` counts the rows with den > 0. Whole images
  are resampled, since targets of one image are not independent. A metric without any
  row has value, low and high None; one of a single image has no interval, since it says
  nothing of others.
  """
  if not columns:
    return {}
  num_GK, den_GK = _image_sums(columns, image_N)
  draws_RG = draws(len(num_GK), resamples, seed)
  value_K = _divide(num_GK.sum(0), den_GK.sum(0))
  low_K, high_K = _interval(_divide(draws_RG @ num_GK, draws_RG @ den_GK))
  lone_K = np.count_nonzero(den_GK > 0, axis=0) < 2
  low_K[lone_K] = high_K[lone_K] = np.nan
  return {
    name: {
      "value": _number(value_K[k]),
      "low": _number(low_K[k]),
      "high": _number(high_K[k]),
      "n": int(np.count_nonzero(np.asarray(den) > 0)),
    }
    for k, (name, (_, den)) in enumerate(columns.items())
  }


def mask_metrics(table, *, resamples=1000, seed=0):
  """Every mask metric of a `Targets.table()`, as `summarise` gives them."""
  columns = metric_columns(table)
  return summarise(columns, table["image"], resamples=resamples, seed=seed)


def per_turn(table, *, resamples=1000, seed=0):
  """{turn: {"ciou": ..., "giou": ...}} by turn (from 1) in which the mask was due."""
  if not len(table["image"]):
    return {}
  out = {}
  for turn in np.unique(table["turn"]):
    rows = {k: v[table["turn"] == turn] for k, v in table.items()}
    columns = {k: v for k, v in metric_columns(rows).items() if k in ("ciou", "giou")}
    out[str(turn + 1)] = summarise(
      columns, rows["image"], resamples=resamples, seed=seed
    )
  return out


def by_value(table, values, order, *, resamples=1000, seed=0):
  """{value: {"ciou", "giou", "p@0.5"}} of the rows of a table that have it.

  values: one for each row; order: those that are wanted, as they are to be listed.
  """
  out, values_N = {}, np.array(values)
  for value in (value for value in order if value in values):
    rows = {name: column[values_N == value] for name, column in table.items()}
    columns = metric_columns(rows)
    kept = {name: columns[name] for name in ("ciou", "giou", "p@0.5")}
    out[value] = summarise(kept, rows["image"], resamples=resamples, seed=seed)
  return out


def _image_sums(columns, image_N):
  """Sums of num and den by image: two float arrays (G, K)."""
  ids, inverse_N = np.unique(np.asarray(image_N), return_inverse=True)
  sums = np.zeros((2, len(ids), len(columns)))
  for k, pair in enumerate(columns.values()):
    for side, values in enumerate(pair):
      weights = np.asarray(values, float)
      sums[side, :, k] = np.bincount(inverse_N, weights, minlength=len(ids))
  return sums


def draws(groups, resamples=1000, seed=0):
  """How often each group is drawn in each resample: float (R, G), rows sum to G."""
  if not groups:
    return np.zeros((resamples, 0))
  rng = np.random.default_rng(seed)
  return rng.multinomial(groups, np.full(groups, 1 / groups), resamples).astype(float)


def _divide(num, den):
  return np.divide(num, den, out=np.full(np.shape(num), np.nan), where=den > 0)


def _interval(samples_RK):
  """2.5 and 97.5 percentiles over the resamples in which the metric exists."""
  valid_K = np.isfinite(samples_RK).any(0)
  out_2K = np.full((2, samples_RK.shape[1]), np.nan)
  out_2K[:, valid_K] = np.nanpercentile(samples_RK[:, valid_K], (2.5, 97.5), axis=0)
  return out_2K


def ends(samples_R, groups) -> dict:
  """{"low", "high"}: 95 % interval of a statistic from its resamples over `groups`
  images, None of a single one."""
  if groups < 2:
    return {"low": None, "high": None}
  low, high = np.percentile(samples_R, (2.5, 97.5))
  return {"low": float(low), "high": float(high)}


def _number(x):
  """A float for JSON; None where there is no value."""
  return float(x) if np.isfinite(x) else None
