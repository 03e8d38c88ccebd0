"""What the answers of a job are worth, as JSON; a record that fails is named."""

import math
import sys

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.records import one_line
from miras_jax.evaluation import controls, kept, metrics


class Scorer:
  """Scores jobs of a plan one by one.

  views: ImageViews of the records. image_size: pixels of a side of SAM's canvas.
  full: every mask metric; else the areas alone, which take a tenth of the time.
  """

  def __init__(self, plan, records, views, image_size, full=True):
    self._records, self._views, self._image_size = records, views, image_size
    self._uses, self._full = kept.uses(plan, len(records)), full

  def job(self, job, answers) -> dict:
    """{"uses": one for each that is made of the answers, "refused", "shortened"}.

    A use holds `rows` of metrics.Targets for `places` of its record and `masks` (RLE or
    None); the free-running one the `line` of predictions.jsonl in place of masks. One
    that cannot be scored says why in `failed`.
    """
    found = [self._use(use, answers) for use in self._uses.get(job, ())]
    return {
      "uses": found,
      "refused": sum(bool(answer.refused) for answer in answers),
      "shortened": sum(bool(answer.dropped_rounds) for answer in answers),
    }

  def forced(self, i, logits) -> dict:
    """The `rows` of teacher-forced logits, one (h, w) or None for each target."""
    return self._attempt(i, i, self._forced, i, logits)

  def _forced(self, i, logits):
    masks = self._full_size(logits, self._views.geometry(i))
    return {"rows": self._rows(i, range(len(masks)), masks, canny=False)}

  def _use(self, use, answers):
    about = {"name": use.name, "record": use.record}
    work = self._free if use.name == kept.FREE else self._control
    return about | self._attempt(use.record, use.image, work, use, answers)

  def _free(self, use, answers):
    i, slots = use.record, controls.seg_slots(self._records[use.record])
    geometry = self._views.geometry(i)
    every = [self._full_size(answer.logits, geometry) for answer in answers]
    masks = [every[t][k] if k < len(every[t]) else None for t, k in slots]
    rows = self._rows(i, range(len(slots)), masks, canny=self._full)
    line = prediction(self._records[i], answers, every, masks, map(metrics.iou, rows))
    return {"places": list(range(len(slots))), "rows": rows, "line": line}

  def _control(self, use, answers):
    i, slots = use.record, controls.seg_slots(self._records[use.record])
    views, own = self._views.geometry(use.image), self._views.geometry(i)
    stretched = tuple(own["original_hw"]) if use.image != i else None
    logits = kept.logits_of(use, slots, answers)
    masks = self._full_size(logits, views, stretched)
    places = kept.places(use, slots)
    return {
      "places": places,
      "rows": self._rows(i, places, masks, canny=False),
      "masks": [None if m is None else mask_ops.encode_rle(m) for m in masks],
    }

  def _full_size(self, logits, views, original_hw=None):
    size = self._image_size
    return [
      controls.at_original_size([low], views, size, original_hw)[0] for low in logits
    ]

  def _rows(self, i, places, masks, *, canny):
    """Rows of `metrics.Targets` of some targets of a record; a mask may be None."""
    record, slots = self._records[i], controls.seg_slots(self._records[i])
    image = controls.image_key(record)
    targets = metrics.Targets(canny=canny) if self._full else Areas()
    for k, mask in zip(places, masks, strict=True):
      true_HW = mask_ops.decode_rle(record.targets[k][1])
      pred_HW = np.zeros_like(true_HW) if mask is None else mask
      turn, index = slots[k]
      where = {"conversation": record.id, "turn": turn, "index": index}
      targets.add(pred_HW, true_HW, image=image, **where)
    return [{key: _plain(x) for key, x in row.items()} for row in targets.rows]

  def _attempt(self, i, image, work, *args):
    """`work(*args)`; where that fails, why record i cannot be scored."""
    if why := self._views.problem(image):
      return self._failed(i, why)
    try:
      return work(*args)
    except OSError:  # where the results go: it is the same for all
      raise
    except Exception as error:  # of one record: the others are worth their hours
      return self._failed(i, f"{type(error).__name__}: {error}")

  def _failed(self, i, why):
    why = one_line(f"{self._records[i].id}: cannot be scored: {why}")
    print(f"{why} (left out)", file=sys.stderr)
    return {"failed": why}


class Areas:
  """As metrics.Targets, with the areas alone."""

  def __init__(self):
    self.rows = []

  def add(self, pred_HW, true_HW, **where):
    pred, true = np.asarray(pred_HW, bool), np.asarray(true_HW, bool)
    if pred.shape != true.shape:
      raise ValueError(f"prediction {pred.shape}, target {true.shape}: sizes differ")
    areas = {"inter": pred & true, "pred": pred, "true": true}
    self.rows.append(where | {k: np.count_nonzero(x) for k, x in areas.items()})


def _plain(x):
  """A number as JSON has it."""
  return x.item() if isinstance(x, np.generic) else x


def prediction(record, answers, every, masks, ious) -> dict:
  """One line of predictions.jsonl.

  every: for each answer its masks, bool (H, W). masks, ious: of each target; None is no
  mask.
  """
  questions = [text for role, text in record.turns if role == "user"]
  gold = [text for role, text in record.turns if role == "assistant"]
  encoded = [[mask_ops.encode_rle(mask) for mask in masks] for masks in every]
  return {
    "id": record.id,
    "image": record.image_id,
    "turns": [
      {"user": q, "answer": a.text, "gold": g, "num_seg": a.num_seg}
      for q, a, g in zip(questions, answers, gold, strict=True)
    ],
    "targets": [
      {
        "turn": turn,
        "index": index,
        "name": name,
        "produced": mask is not None,
        "mask": _empty(true) if mask is None else encoded[turn][index],
        "iou": float(iou),
        "true": _as_text(true),
        "predicted_iou": _score(answers[turn], index),
      }
      for (turn, index), (name, true), mask, iou in zip(
        controls.seg_slots(record), record.targets, masks, ious, strict=True
      )
    ],
    "turn_masks": [
      {"turn": t, "index": k, "mask": rle, "predicted_iou": _score(answers[t], k)}
      for t, rles in enumerate(encoded)
      for k, rle in enumerate(rles)
    ],
  }


def _empty(true):
  return mask_ops.empty_rle(*true["size"])


def _as_text(rle):
  """An RLE whose counts are a text, whatever the source has."""
  if isinstance(rle["counts"], str):
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"]}
  return mask_ops.encode_rle(mask_ops.decode_rle(rle))


def _score(answer, index):
  """What the model thinks of its mask; None without one, or where it is no number."""
  if index >= len(answer.iou) or not math.isfinite(answer.iou[index]):
    return None
  return float(answer.iou[index])
