"""The curves of a training run: read, smoothed, those of one quantity together."""

import pathlib
from typing import NamedTuple

import numpy as np

from miras_jax.evaluation.report import charts
from miras_jax.evaluation.report.markup import plural, section, text
from miras_jax.training import metrics_log

_SHARE = 0.05  # of the points, what is averaged
_LOSSES = ("loss", "token_ce", "mask_bce", "dice", "focal", "boundary", "iou")
FIRST = ("loss", "ciou", *_LOSSES[1:])
HELD_OUT = "probe_"
MOST_CURVES = 100
LARGEST_DRAWN = 1e100  # what plots can scale
_AS_IT_IS = ("learning_rate",)  # a schedule is not noisy


class Pair(NamedTuple):
  """One quantity: its points in training and on held-out data; either may be empty."""

  name: str
  train: list
  held_out: list


def read_curves(path):
  """({name: [(step, value), ...]}, number of unreadable lines) of a metrics.jsonl.

  A killed run may leave half a line; it is counted, not hidden. Values that are not
  finite numbers are left out.
  """
  rows, unread = metrics_log.read_rows(pathlib.Path(path))
  curves = {}
  for row, _ in rows:
    for name, value in row.items():
      if name != "step" and _is_number(value):
        # A resumed run repeats steps; the last value of a step stands.
        curves.setdefault(name, {})[row["step"]] = value
  kept = sorted(curves.items(), key=lambda item: _rank(item[0]))[:MOST_CURVES]
  return {k: sorted(v.items()) for k, v in kept}, unread


def read_stages(path) -> list[charts.Mark]:
  """Where the stages of a run with several begin, from its metrics.jsonl."""
  began = {}
  for row, _ in metrics_log.read_rows(pathlib.Path(path))[0]:
    name = row.get("stage")
    if isinstance(name, str):
      began[name] = min(row["step"], began.get(name, row["step"]))
  marks = sorted(charts.Mark(step, name) for name, step in began.items())
  return marks[:MOST_CURVES]


def _is_number(x):
  if not isinstance(x, int | float) or isinstance(x, bool):
    return False
  return abs(x) < LARGEST_DRAWN  # false for NaN


def _rank(name):
  """Loss and cIoU first, then the loss terms, then the rest by name."""
  base = name.removeprefix(HELD_OUT)
  return (FIRST.index(base) if base in FIRST else len(FIRST)), base, name


def pairs(curves) -> list[Pair]:
  """The curves of `read_curves`, training and held-out ones of a quantity together."""
  names = dict.fromkeys(name.removeprefix(HELD_OUT) for name in curves)
  return [
    Pair(name, curves.get(name, []), curves.get(HELD_OUT + name, [])) for name in names
  ]


def smooth(points, share=_SHARE):
  """Centred moving average over `share` of the points; no lag, shorter at the ends."""
  steps, values = zip(*points, strict=True)
  total_N = np.concatenate([[0.0], np.cumsum(values)])
  reach, index_N = int(len(values) * share / 2), np.arange(len(values))
  # As far on the left as on the right, or the ends would lean inwards.
  reach_N = np.minimum(np.minimum(index_N, index_N[::-1]), reach)
  first_N, last_N = index_N - reach_N, index_N + reach_N + 1
  mean_N = (total_N[last_N] - total_N[first_N]) / (last_N - first_N)
  return list(zip(steps, mean_N.tolist(), strict=True))


def _strong(pair):
  """The strong line of the training points.

  It ends before the last ones: an average of few points says no more than each.
  """
  if pair.name in _AS_IT_IS:
    return pair.train
  cut = int(len(pair.train) * _SHARE / 4)
  return smooth(pair.train)[: len(pair.train) - cut]


def save_curves(path, curves, stages=(), columns=3):
  """All curves as small multiples in one PNG, those of one quantity in one chart; a
  line where a stage begins."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  shown = pairs(curves)
  rows = -(-len(shown) // columns)
  figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
  FigureCanvasAgg(figure)
  for i, pair in enumerate(shown):
    axes = figure.add_subplot(rows, columns, i + 1)
    if pair.train:
      blue = {"color": "#0072b2"}
      axes.plot(*zip(*pair.train, strict=True), **blue, alpha=0.3, linewidth=0.8)
      axes.plot(*zip(*_strong(pair), strict=True), **blue, linewidth=1.5)
    if pair.held_out:
      axes.plot(*zip(*pair.held_out, strict=True), ".--", color="#c25700", linewidth=1)
    for mark in stages[1:]:
      axes.axvline(mark.step, color="0.5", linestyle=":", linewidth=1)
    # parse_math: a name with "$" from a log is text, not a formula.
    axes.set_title(pair.name, fontsize=10, loc="left", parse_math=False)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
  figure.suptitle("blue: training, orange: held out", fontsize=9, x=0.01, ha="left")
  figure.savefig(path, dpi=110)


def render(curves, unread, stages=()) -> str:
  """The section of the page; the curves that matter first, the others folded."""
  if not curves:
    return ""
  note = (
    "The strong line is a moving average over 5 % of the steps; the numbers are where"
    " the lines end. Held out: one batch of the split for evaluation."
  )
  if stages:
    began = ", ".join(f"{text(m.name, 40)} from step {m.step:,}" for m in stages)
    note += f" Stages, with a dotted line where one begins: {began}."
  if unread:
    note += f" {plural(unread, 'unreadable line')} in the log."
  shown = pairs(curves)
  first = [_figure(pair, stages) for pair in shown if pair.name in FIRST]
  rest = [_figure(pair, stages) for pair in shown if pair.name not in FIRST]
  body = f'<div class="plots">{"".join(first)}</div>'
  if rest:
    body += (
      f"<details{'' if first else ' open'}><summary>{plural(len(rest), 'more curve')}"
      f'</summary><div class="plots">{"".join(rest)}</div></details>'
    )
  return section("training", "Training", body, note)


def _figure(pair, stages):
  lines, keys = [], []
  if pair.train:
    lines.append(charts.Line("train", _strong(pair), pair.train))
    last = _strong(pair)[-1][1]
    keys.append(f'<span class="key train">training {last:.4g}</span>')
  if pair.held_out:
    lines.append(charts.Line("held-out", pair.held_out))
    keys.append(
      f'<span class="key held-out">held out {pair.held_out[-1][1]:.4g}</span>'
    )
  options = {"decades": pair.name in _LOSSES, "marks": stages[1:]}
  return (
    f'<div class="card"><h3>{text(pair.name, 80)}</h3><p class="keys">{"".join(keys)}'
    f"</p>{charts.curves(pair.name[:80], lines, **options)}</div>"
  )
