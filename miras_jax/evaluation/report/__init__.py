"""The evaluation report: one self-contained page, the curves and the overlays.

`write_report` writes `index.html`, `curves.png` and `overlays.png` into a folder. The
page loads nothing from outside, runs no script, and shows every text that came from
data or model escaped: both are untrusted. It takes MOST_BYTES at most: photographs
become smaller until they fit.
"""

import pathlib
import sys

from miras_jax import drawing
from miras_jax.evaluation.report import choose, outcomes, page
from miras_jax.evaluation.report.curves import read_curves, read_stages, save_curves
from miras_jax.evaluation.report.markup import number
from miras_jax.evaluation.report.page import MOST_BYTES
from miras_jax.evaluation.report.summary import warnings
from miras_jax.evaluation.report.wording import HEADLINE
from miras_jax.training import goodput

__all__ = [
  "HEADLINE",
  "MOST_BYTES",
  "number",
  "read_curves",
  "read_stages",
  "save_curves",
  "warnings",
  "write_report",
]


def write_report(out, result, lines, example, log=None, *, count=16, seed=0):
  """Writes index.html, curves.png and overlays.png into folder `out`.

  result: the object of metrics.json. lines: the dicts of predictions.jsonl in its
  order, walked through more than once. example(i): a `drawing.Example` of line i; one
  that fails is named and left out. log: the path of a training run's metrics.jsonl
  (absent: no curves). count: conversations to draw. Returns the path of index.html.
  """
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  curves, unread = read_curves(log) if log else ({}, 0)
  stages = read_stages(log) if log else []
  if curves:
    save_curves(out / "curves.png", curves, stages)
  lives = goodput.read(pathlib.Path(log).with_name(goodput.FILE)) if log else []
  rows, grid = outcomes.survey(lines), drawing.Grid()
  groups = choose.conversations(rows, count, seed)
  failures = choose.failures(rows, seed) if count else {}
  report = page.Page(result, rows, curves, unread, lives, stages)
  for i, line, shown in _walk(lines, groups, failures):
    try:
      drawn = example(i)
      report.add(drawn, line, rows[i], shown)
    except Exception as error:  # the numbers are written: nothing may end here
      print(f"{line['id']}: not drawn: {error}", file=sys.stderr)
      continue
    if shown.group:
      grid.add(drawn)
  grid.save(out / "overlays.png")
  path = out / "index.html"
  path.write_text(report.render(), encoding="utf-8")
  return path


def _walk(lines, groups, failures):
  """(i, line, page.Shown) of each line that is drawn, in the data's order."""
  shown = {}
  for group, rows in groups.items():
    for row in rows:
      shown.setdefault(row.number, page.Shown()).group = group
  for pairs in failures.values():
    for row, outcome in pairs:
      shown.setdefault(row.number, page.Shown()).failures.append(outcome)
  for number_, line in enumerate(lines, 1):
    if number_ in shown:
      yield number_ - 1, line, shown[number_]
