"""What earlier masks are worth: edit turns, repeats, copies, swapped slots, slope.

A target that is about an earlier one (`history`) is an edit turn. Masks are those of
predictions.jsonl, so that models with a state and without are measured alike.

  edits           IoU of edit turns: ciou of all and of each relation
  same_again      turns that only repeat: IoU with the earlier mask, share of >= 0.95
  copying         edit turns that do not repeat, but whose mask is the earlier (> 0.9)
  by_number       ciou of the first, second, ... mask of a conversation
  slope           how much of it is lost from one to the next, a line through them
  swapped_follows share of answers nearer to what a swapped slot holds than to the truth
"""

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.slots.relations import RELATIONS, SAME
from miras_jax.evaluation import metrics
from miras_jax.evaluation.history import relations_of

AGAIN, COPY = 0.95, 0.9
MOST_NUMBERS = 12


def measures(lines, swaps=(), *, held="own", resamples=1000, seed=0) -> dict:
  """The object "state" of metrics.json; {} where no target has an earlier one.

  lines: of predictions.jsonl. swaps: (image, answer RLE or None, RLE that was held,
  true RLE). held: whose masks the slots had, "own", "gold" or "none".
  """
  rows = [row for line in lines for row in _rows(line, held)]
  sampling = {"resamples": resamples, "seed": seed}
  found = {}
  if any(row["kind"] is not None for row in rows):
    found = {"held": held, "turns": _counts(rows)}
    found["metrics"] = _summaries(rows, sampling)
    found["by_number"] = by_number(rows)
    found["slope"] = slope(found["by_number"])
  if swaps:
    found["swapped_follows"] = _follows(swaps, sampling)
  return found


def _rows(line, held):
  """One dict for each target of a line."""
  targets = line["targets"]
  true = [t["true"] for t in targets]
  history = relations_of(true, [t["turn"] for t in targets])
  for k, (target, (kind, earlier)) in enumerate(zip(targets, history, strict=True)):
    both, union = _areas(target["mask"], target["true"])
    row = {"image": line["image"], "number": k, "inter": both, "union": union}
    row["kind"] = None
    if earlier >= 0:
      shown = true[earlier] if held == "gold" else targets[earlier]["mask"]
      row |= {"kind": kind, "like": overlap(target["mask"], shown)}
    yield row


def overlap(first, second) -> float:
  """IoU of two RLEs. 0 where both are empty: there is nothing to copy or repeat."""
  both, union = _areas(first, second)
  return both / union if union else 0.0


def _areas(first, second):
  """(intersection, union) in pixels."""
  both = mask_ops.rle_overlap(first, second)
  return both, mask_ops.rle_area(first) + mask_ops.rle_area(second) - both


def _counts(rows):
  kinds = [RELATIONS[row["kind"]] for row in rows if row["kind"] is not None]
  return {"edits": len(kinds)} | {k: kinds.count(k) for k in RELATIONS if k in kinds}


def _summaries(rows, sampling):
  def column(value, wanted):
    pairs = [(value(r), 1.0) if wanted(r) else (0.0, 0.0) for r in rows]
    return tuple(np.array(side, float) for side in zip(*pairs, strict=True))

  def areas(wanted):
    pairs = [(r["inter"], r["union"]) if wanted(r) else (0, 0) for r in rows]
    return tuple(np.array(side, float) for side in zip(*pairs, strict=True))

  columns = {"edits_ciou": areas(lambda r: r["kind"] is not None)}
  for kind in sorted({r["kind"] for r in rows} - {None}):
    name = f"ciou_{RELATIONS[kind]}"
    columns[name] = areas(lambda r, kind=kind: r["kind"] == kind)
  columns["first_ciou"] = areas(lambda r: r["kind"] is None)

  def repeats(row):
    return row["kind"] == SAME

  def differs(row):
    return row["kind"] not in (None, SAME)

  columns["same_again"] = column(lambda r: r["like"], repeats)
  columns["same_again@0.95"] = column(lambda r: r["like"] >= AGAIN, repeats)
  columns["copying"] = column(lambda r: r["like"] > COPY, differs)
  columns = {name: pair for name, pair in columns.items() if pair[1].sum()}
  return metrics.summarise(columns, np.array([r["image"] for r in rows]), **sampling)


def by_number(rows) -> dict:
  """{"1": {"ciou", "targets"}, ...} by how many targets came before."""
  found = {}
  for number in range(MOST_NUMBERS):
    here = [r for r in rows if r["number"] == number]
    union = sum(r["union"] for r in here)
    if here:
      value = sum(r["inter"] for r in here) / union if union else 1.0
      found[str(number + 1)] = {"ciou": value, "targets": len(here)}
  return found


def slope(curve) -> float | None:
  """Change of ciou from one mask to the next from the second on; None of too few."""
  points = [(int(n), v["ciou"]) for n, v in curve.items() if int(n) >= 2]
  if len(points) < 2:
    return None
  return float(np.polyfit(*zip(*points, strict=True), 1)[0])


def _follows(swaps, sampling):
  """Whether answers follow what was put into a slot; no mask follows nothing."""
  follow = [
    float(answer is not None and overlap(answer, held) > overlap(answer, true))
    for _, answer, held, true in swaps
  ]
  columns = {"follows": (np.array(follow), np.ones(len(follow)))}
  images = np.array([image for image, *_ in swaps])
  return metrics.summarise(columns, images, **sampling)["follows"]
