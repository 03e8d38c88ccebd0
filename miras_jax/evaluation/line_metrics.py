"""Metrics that take text, masks and turns together, from lines of predictions.jsonl.

grounded_accuracy        sqrt(correctness of the answer x IoU), mean over targets; the
                         correctness is ROUGE-L with the gold answer. 1 needs both.
grounded_accuracy_exact  the correctness is 1 where the words are those of the gold
                         answer, case and punctuation aside, else 0
grounded_accuracy_name   it is 1 where the name before the [SEG] is the target's; of
                         models that name their targets
ece                      expected calibration error of the predicted IoU
intent drift             IoU of the masks of each turn with the final target

N targets or turns, G images, R resamples, K bins.
"""

import collections
import math

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.records import EMPTY_NAME, OBJ_TOKEN, SEG_TOKEN
from miras_jax.evaluation import cider, controls, metrics, pair_scores, rouge

BINS = 10  # of the predicted IoU, equally wide


class LineMetrics:
  """Takes lines one by one; holds a few numbers of each.

  named: whether the model was taught to say "[OBJ]name[SEG]".
  """

  def __init__(self, *, named, resamples=1000, seed=0):
    self._named = named
    self._sampling = {"resamples": resamples, "seed": seed}
    self._grounded = collections.defaultdict(list)
    self._trusted, self._drift = [], []

  def add(self, line):
    """A line as `miras eval` writes it; fields that it lacks are passed over."""
    names = iter([target["name"] for target in line["targets"]])
    golds = [
      controls.with_names(turn["gold"], names) if self._named else turn["gold"]
      for turn in line["turns"]
    ]
    for target in line["targets"]:
      self._add_grounded(line, target, golds[target["turn"]])
      predicted = target.get("predicted_iou")
      if target["produced"] and predicted is not None and math.isfinite(predicted):
        self._trusted.append((_image(line), predicted, target["iou"]))
    if turns := _drift_of(line):
      self._drift.append((_image(line), turns))

  def _add_grounded(self, line, target, gold):
    answer = line["turns"][target["turn"]]["answer"]
    (overlap,) = rouge.rouge_l([answer], [gold])
    same = cider.tokenise(answer) == cider.tokenise(gold)
    right = {"": overlap, "_exact": same}
    if self._named:
      said = _name_said(answer, target["index"])
      right["_name"] = said == cider.tokenise(target["name"] or EMPTY_NAME)
    self._grounded["image"].append(_image(line))
    for kind, value in right.items():
      score = math.sqrt(value * target["iou"])
      self._grounded[f"grounded_accuracy{kind}"].append(score)

  def metrics(self) -> dict:
    """Those of metrics.json: {name: {"value", "low", "high", "n"}}."""
    values = dict(self._grounded)
    image_N = values.pop("image", [])
    columns = {k: (np.array(v), np.ones(len(v))) for k, v in values.items()}
    found = metrics.summarise(columns, image_N, **self._sampling)
    if self._trusted:
      found["ece"] = self._ece()
    return found

  def calibration(self) -> dict:
    """{"bins": [{"low", "high", "n", "predicted", "iou"}], "bias"}; {} without any.

    `predicted` and `iou` are the bin's means; bias: mean of predicted - actual.
    """
    if not self._trusted:
      return {}
    sums_K3 = _bin_sums(self._trusted, np.zeros(len(self._trusted), int), 1)[0]
    bins = [
      {
        "low": k / BINS,
        "high": (k + 1) / BINS,
        "n": int(count),
        "predicted": float(predicted / count) if count else None,
        "iou": float(actual / count) if count else None,
      }
      for k, (count, predicted, actual) in enumerate(sums_K3)
    ]
    count, predicted, actual = sums_K3.sum(0)
    return {"bins": bins, "bias": float((predicted - actual) / count)}

  def _ece(self):
    ids, inverse_N = np.unique([x[0] for x in self._trusted], return_inverse=True)
    sums_GK3 = _bin_sums(self._trusted, inverse_N, len(ids))
    draws_RG = metrics.draws(len(ids), **self._sampling)
    drawn_RK3 = np.tensordot(draws_RG, sums_GK3, 1)
    found = {"value": float(_ece_of(sums_GK3.sum(0)))}
    found |= metrics.ends(_ece_of(drawn_RK3), len(ids))
    return found | {"n": len(self._trusted)}

  def intent_drift(self) -> dict:
    """How the masks approach the final target; {} where none comes before the last.

    {"turns": {turn: {"model", "gold"}}, "first", "last", "change"}: mean IoU with the
    final target of the masks made in each turn, and of those that were due in it; of
    the first and the last turn with a mask, and the difference of the two.
    """
    if not self._drift:
      return {}
    rows = collections.defaultdict(list)
    for image, turns in self._drift:
      for turn, found in turns.items():
        rows[turn] += [(image, source, value) for source, value in found.items()]
    turns = {str(turn + 1): self._by_source(rows[turn]) for turn in sorted(rows)}
    return {"turns": turns} | self._ends()

  def _by_source(self, rows):
    return {
      source: self._mean([(image, x) for image, kind, x in rows if kind == source])
      for source in ("model", "gold")
      if any(kind == source for _, kind, _ in rows)
    }

  def _ends(self):
    """First, last and change of the conversations with masks in several turns."""
    ends = []
    for image, turns in self._drift:
      made = [found["model"] for _, found in sorted(turns.items()) if "model" in found]
      if len(made) > 1:
        ends.append((image, made[0], made[-1]))
    return {
      "first": self._mean([(image, first) for image, first, _ in ends]),
      "last": self._mean([(image, last) for image, _, last in ends]),
      "change": self._mean([(image, last - first) for image, first, last in ends]),
    }

  def _mean(self, rows):
    columns = {"": (np.array([x for _, x in rows], float), np.ones(len(rows)))}
    return metrics.summarise(columns, [image for image, _ in rows], **self._sampling)[
      ""
    ]


def _image(line):
  """What tells the images of lines apart."""
  return line["image"] or line["id"]


def _name_said(answer, index):
  """The name before the [SEG] of that number, tokenised; None where there is none."""
  parts = answer.split(SEG_TOKEN)
  if index >= len(parts) - 1 or OBJ_TOKEN not in parts[index]:
    return None
  return cider.tokenise(parts[index].rsplit(OBJ_TOKEN, 1)[-1])


def _bin_sums(trusted, group_N, groups):
  """(number, sum of predicted, sum of actual IoU) by group and bin: (groups, K, 3)."""
  values_N2 = np.array([x[1:] for x in trusted], float)
  bin_N = np.clip((values_N2[:, 0] * BINS).astype(int), 0, BINS - 1)
  sums = np.zeros((groups, BINS, 3))
  ones_N1 = np.ones((len(values_N2), 1))
  np.add.at(sums, (group_N, bin_N), np.concatenate([ones_N1, values_N2], 1))
  return sums


def _ece_of(sums_K3):
  """Sum over the bins of their share times |mean predicted - mean actual IoU|."""
  count, predicted, actual = np.moveaxis(sums_K3, -1, 0)
  return np.abs(predicted - actual).sum(-1) / count.sum(-1)


def _drift_of(line):
  """{turn: {"model", "gold"}: IoU with the final target} of a line; {} where no mask
  comes before the turn of the final target or the line does not hold the targets."""
  targets = line["targets"]
  if not targets or any("true" not in target for target in targets):
    return {}
  last = max(target["turn"] for target in targets)
  due, made = collections.defaultdict(list), collections.defaultdict(list)
  for target in targets:
    due[target["turn"]].append(target["true"])
  for mask in line.get("turn_masks") or [t for t in targets if t["produced"]]:
    if mask["turn"] <= last:
      made[mask["turn"]].append(mask["mask"])
  if min([*due, *made]) == last:
    return {}
  final = _union(due[last])
  return {
    turn: {
      source: _iou(_union(masks[turn]), final)
      for source, masks in (("model", made), ("gold", due))
      if turn in masks
    }
    for turn in {*due, *made}
  }


def _union(rles):
  if len(rles) == 1:
    return pair_scores.of_rle(rles[0])
  masks = [mask_ops.decode_rle(rle) for rle in rles]
  return pair_scores.of_array(np.any(masks, axis=0))


def _iou(one, other):
  return float(metrics.iou(pair_scores.areas(one, other)))
