"""Samples of a benchmark from lines of predictions.jsonl, its metrics, and the table.

N samples. A sample is a target or, where a benchmark takes the union, an answer.
"""

import functools

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.builders import reasonseg
from miras_jax.evaluation import metrics

ALL = "all"
LABELS = {"ciou": "cIoU", "giou": "gIoU", "miou": "mIoU", "n_acc": "N-acc"}
LABELS |= {"t_acc": "T-acc"}


class Samples:
  """Takes lines one by one; holds some numbers a sample."""

  def __init__(self, benchmark):
    self._benchmark, self._rows = benchmark, []

  def add(self, line):
    union = self._benchmark.get("union")
    samples = _of_answers(line) if union else _of_targets(line)
    for target, pred_HW, true_HW in samples:
      self._rows.append({
        "image": line["image"] or line["id"],
        "parts": _parts(self._benchmark.get("parts"), line, target),
        "inter": np.count_nonzero(pred_HW & true_HW),
        "pred": np.count_nonzero(pred_HW),
        "true": np.count_nonzero(true_HW),
      })  # fmt: skip

  def metrics(self, **sampling) -> dict:
    """{part: {metric: {"value", "low", "high", "n"}}}, "all" first."""
    parts = {ALL: self._rows}
    for row in self._rows:
      for name in row["parts"]:
        parts.setdefault(name, []).append(row)
    wanted = self._benchmark["metrics"]
    return {name: _metrics(rows, wanted, sampling) for name, rows in parts.items()}


def _of_targets(line):
  for target in line["targets"]:
    masks = (mask_ops.decode_rle(target[key]) > 0 for key in ("mask", "true"))
    yield target, *masks


def _of_answers(line):
  """One sample for each answer that has targets: all masks as one."""
  for turn in dict.fromkeys(target["turn"] for target in line["targets"]):
    due = [target for target in line["targets"] if target["turn"] == turn]
    made = [mask for mask in line["turn_masks"] if mask["turn"] == turn]
    true_HW = _union(target["true"] for target in due)
    pred_HW = np.zeros_like(true_HW)
    if made:
      pred_HW = _union(mask["mask"] for mask in made)
    yield due[0], pred_HW, true_HW


def _union(rles):
  return functools.reduce(np.logical_or, (mask_ops.decode_rle(rle) > 0 for rle in rles))


def _parts(kind, line, target):
  """Names of the parts of the table, beside the whole, that a sample belongs to."""
  if kind == "query":
    return ["long queries" if target["name"] == reasonseg.NAME else "short queries"]
  if kind == "round":
    return [f"{line['id'].rpartition('/')[0]}, round {target['turn'] + 1}"]
  return []


def _metrics(rows, wanted, sampling):
  inter, pred, true = (
    np.array([row[key] for row in rows], float) for key in ("inter", "pred", "true")
  )
  union, one, empty = pred + true - inter, np.ones(len(rows)), true == 0
  iou_N = np.where(union > 0, inter / np.maximum(union, 1), 1.0)
  columns = {
    "ciou": (inter, union),
    "giou": (iou_N, one),
    "miou": (iou_N, one),
    "n_acc": (empty & (pred == 0), empty),
    "t_acc": (~empty & (pred > 0), ~empty),
    **{f"p@{t}": (iou_N >= t, one) for t in metrics.THRESHOLDS},
  }
  columns = {name: columns[name] for name in wanted}
  return metrics.summarise(columns, [row["image"] for row in rows], **sampling)


def page(suite, found) -> str:
  """The tables as Markdown, in per cent as papers have them."""
  asked = ", ".join(f"`{text}`" for text in found["templates"].values())
  lines = [
    f"# {suite['title']}",
    "",
    f"Checkpoint `{found['checkpoint']}`, step {found['step']}. Asked with {asked}."
    + (f" Only the first {found['limit']} of each split." if found["limit"] else ""),
    "",
    "Per cent; in brackets 95 % intervals, bootstrap over images. History:"
    f" {found['history']} answers. {_made(found['provenance'])}.",
    "",
    *_headline(suite, found["results"]),
  ]
  for benchmark in suite["benchmarks"]:
    results = [r for r in found["results"] if r["benchmark"] == benchmark["name"]]
    if results:
      lines += ["", f"## {benchmark['name']}", "", f"{benchmark['convention']}.", ""]
      lines += _table(benchmark, results)
  if found["missing"]:
    lines += ["", "## Missing", ""]
    lines += [f"* {item['benchmark']}: {item['why']}" for item in found["missing"]]
  return "\n".join(lines) + "\n"


def _made(provenance):
  """`Made 2026-01-31, commit abc, miras_jax 0.1.0, 1 cpu`."""
  version = provenance["versions"]["miras_jax"]
  date, commit = provenance["date"][:10], provenance["commit"]
  parts = [f"Made {date}", f"commit {commit}" if commit else "", f"miras_jax {version}"]
  return ", ".join(filter(None, [*parts, provenance["device"]]))


def _headline(suite, results):
  """One row for the checkpoint, as papers print it."""
  cells = []
  for benchmark in suite["benchmarks"]:
    for r in results:
      if r["benchmark"] == benchmark["name"]:
        for metric in benchmark["headline"]:
          name = f"{r['benchmark']} {r['split']} {label(metric)}"
          cells.append((name, _per_cent(r["parts"][ALL][metric]["value"])))
  if not cells:
    return []
  names, values = zip(*cells, strict=True)
  return [_row(names), _row(["---:"] * len(names)), _row(values)]


def _table(benchmark, results):
  rows = [_row(["split", *map(label, benchmark["metrics"]), "samples"])]
  rows.append(_row(["---", *["---:"] * (len(benchmark["metrics"]) + 1)]))
  for result in results:
    for part, found in result["parts"].items():
      name = result["split"] if part == ALL else f"{result['split']}, {part}"
      count = max(m["n"] for m in found.values())
      cells = [_cell(found[metric]) for metric in benchmark["metrics"]]
      rows.append(_row([name, *cells, f"{count:,}"]))
  return rows


def label(metric) -> str:
  """How papers write a metric."""
  return LABELS.get(metric, metric.replace("p@", "P@"))


def _cell(m):
  if m["low"] is None:
    return _per_cent(m["value"])
  return f"{_per_cent(m['value'])} [{_per_cent(m['low'])}, {_per_cent(m['high'])}]"


def _per_cent(x):
  return "–" if x is None else f"{100 * x:.1f}"


def _row(cells):
  return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"
