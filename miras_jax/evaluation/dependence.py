"""What the mask depends on: every control beside the free-running pass, one table."""

import numpy as np

from miras_jax.evaluation import altered, metrics


def dependence(tables, beside, *, resamples=1000, seed=0) -> dict:
  """{control: how far the IoU falls under it}, over the same targets in both passes.

  Of the targets that are not empty, with the original ones as the truth: `iou` under
  the control, `free_running` without it, `change`, and `empty`, the share of empty
  masks under it; each as `metrics.summarise` gives it, paired. `conversations` and
  `targets` count those to which it applied; one without any is absent.

  tables: {control: `Targets.table`}; beside: the free-running rows of the same targets.
  """
  found = {}
  for name, table in tables.items():
    there = table["true"] > 0
    if not there.any():
      continue
    mine, free = ({k: v[there] for k, v in t.items()} for t in (table, beside[name]))
    iou_N, free_N = metrics.iou(mine), metrics.iou(free)
    one_N = np.ones(len(iou_N))
    columns = {
      "iou": (iou_N, one_N),
      "free_running": (free_N, one_N),
      "change": (iou_N - free_N, one_N),
      "empty": (mine["pred"] == 0, one_N),
    }
    sampling = {"resamples": resamples, "seed": seed}
    found[name] = {
      "conversations": len(set(zip(mine["image"], mine["conversation"], strict=True))),
      "targets": int(there.sum()),
    } | metrics.summarise(columns, mine["image"], **sampling)
  return found


def measure(name) -> str:
  """The metric by which a control is read: cIoU with the original targets, which falls
  where the mask depends on what was spoilt. Of targets that are not there it is 0 for
  any mask at all: what counts is how many masks are empty."""
  return "no_target_accuracy" if name == altered.ABSENT else "ciou"


def as_due(name, table) -> dict:
  """The table of a control against what is right under it: nothing, where the target
  that was asked for is not there."""
  if name != altered.ABSENT:
    return table
  none_N = np.zeros_like(table["true"])
  blank_N = (table["pred"] == 0).astype(float)
  return table | {"inter": none_N, "true": none_N, "biou": blank_N}


def history_gap(gold, own, *, resamples=1000, seed=0) -> dict:
  """{turn: mean IoU with the gold answers as history, with the model's own, and the
  gap between them}, over the same targets, from the second turn on.

  gold, own: tables of the same targets. Turns count from 1.
  """
  found = {}
  for turn in np.unique(gold.get("turn", [])).tolist():
    here = gold["turn"] == turn
    gold_N, own_N = (metrics.iou({k: t[k][here] for k in t}) for t in (gold, own))
    one_N = np.ones(len(gold_N))
    columns = {
      "gold": (gold_N, one_N),
      "own": (own_N, one_N),
      "gap": (gold_N - own_N, one_N),
    }
    images = gold["image"][here]
    summary = metrics.summarise(columns, images, resamples=resamples, seed=seed)
    found[str(turn + 1)] = summary
  return found
