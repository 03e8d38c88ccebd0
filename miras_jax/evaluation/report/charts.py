"""Bars, histograms and curves as SVG that stays legible from 360 pixels of width up."""

import math
from typing import NamedTuple

import numpy as np

from miras_jax.evaluation.report.markup import interval, number, text

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 360, 170, 44, 8, 22
_MOST_POINTS = 300  # of one curve


class Bar(NamedTuple):
  """A row of `bars`. metric: {"value", "low", "high"}; remark: HTML under the name;
  mark: a value that is marked by a line over the bar."""

  name: str
  metric: dict
  remark: str = ""
  main: bool = False
  mark: float | None = None


def bars(rows) -> str:
  """Rows of name, bar with its interval, and value; all of one scale, from 0."""
  highest = max([_end(row) for row in rows] + [0.01])
  step = 10.0 ** math.floor(math.log10(highest))
  top = math.ceil(highest / step - 1e-9) * step
  return f'<div class="bars">{"".join(_bar(row, 100 / top) for row in rows)}</div>'


def _end(row):
  return max(row.metric.get("high") or 0, row.metric["value"] or 0, row.mark or 0)


def _bar(row, scale):
  metric, width = row.metric, (row.metric["value"] or 0) * scale
  whisker = ""
  if interval(metric):
    low, high = metric["low"] * scale, metric["high"] * scale
    line = f"M{low:.2f} 5H{high:.2f}M{low:.2f} 2V8M{high:.2f} 2V8"
    whisker = f'<path class="under" d="{line}"/><path class="whisker" d="{line}"/>'
  if row.mark is not None:
    line = f"M{row.mark * scale:.2f} 0V10"
    whisker += f'<path class="under" d="{line}"/><path class="whisker" d="{line}"/>'
  return (
    f'<div class="row{" main" if row.main else ""}"><div class="name">{text(row.name)}'
    f"<small>{row.remark}</small></div>"
    '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
    '<rect class="ground" width="100" height="10"/>'
    f'<rect class="bar" width="{width:.2f}" height="10"/>{whisker}</svg>'
    f'<div class="value"><b>{number(metric["value"])}</b>'
    f"<small>{interval(metric)}</small></div></div>"
  )


def counts(rows, total) -> str:
  """Rows of (name, HTML beside it, count, class): bars of their share of `total`."""
  parts = []
  for name, remark, count, kind in rows:
    share = count / total if total else 0
    parts.append(
      f'<div class="row"><div class="name">{name}<small>{remark}</small></div>'
      '<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
      '<rect class="ground" width="100" height="10"/>'
      f'<rect class="bar {kind}" width="{100 * share:.2f}" height="10"/></svg>'
      f'<div class="value"><b>{count:,}</b><small>{share:.0%}</small></div></div>'
    )
  return f'<div class="bars">{"".join(parts)}</div>'


def histogram(values, bins=20) -> str:
  """How many of `values`, each within 0 to 1, lie in each of `bins`."""
  count_B, _ = np.histogram(values, bins, (0, 1))
  highest, inside = max(1, int(count_B.max())), _WIDTH - _LEFT - 6
  height = _HEIGHT - _TOP - _BOTTOM
  parts = []
  for i, count in enumerate(count_B.tolist()):
    left, tall = _LEFT + i * inside / bins, count / highest * height
    parts.append(
      f'<rect class="bar" x="{left + 0.7:.1f}" y="{_TOP + height - tall:.1f}"'
      f' width="{inside / bins - 1.4:.1f}" height="{tall:.1f}">'
      f"<title>IoU {i / bins:.2f} to {(i + 1) / bins:.2f}: {count:,}</title></rect>"
    )
  ticks = "".join(
    f'<text x="{_LEFT + tick * inside:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">'
    f"{tick:g}</text>"
    for tick in (0, 0.25, 0.5, 0.75, 1)
  )
  median = float(np.median(values)) if len(values) else 0.0
  middle = _LEFT + median * inside
  # On the side where there is room for its label.
  side, shift = ("end", -5) if median > 0.5 else ("start", 5)
  label = (
    f"Histogram of {len(values):,} IoUs; the median is {median:.2f},"
    f" {int(count_B[0]):,} are under {1 / bins:g}"
  )
  return _chart(
    label,
    f'{"".join(parts)}{ticks}<text x="{_LEFT - 5}" y="{_TOP + 10}" text-anchor="end">'
    f'{highest:,}</text><path class="mark" d="M{middle:.1f} {_TOP}v{height}"/>'
    f'<text class="label" x="{middle + shift:.1f}" y="{_TOP + 10}"'
    f' text-anchor="{side}">median {median:.2f}</text>'
    f'<path class="axis" d="M{_LEFT} {_TOP + height}H{_WIDTH - 6}"/>',
  )


def _chart(label, inner):
  return (
    f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    f' aria-label="{text(label)}">{inner}</svg>'
  )


class Line(NamedTuple):
  """One curve. points: (step, value); raw: the same before it was smoothed."""

  kind: str
  points: list
  raw: tuple = ()


class Mark(NamedTuple):
  """A step at which something of that name begins."""

  step: int
  name: str


def curves(name, lines, *, decades=False, marks=()) -> str:
  """Lines in one frame: `raw` ones faint, points of few marked by dots.

  decades: the scale is logarithmic where every value is above 0 and they span one.
  marks: those within the lines have a dotted line.
  """
  place, ticks = _frame([line.points for line in lines], decades)
  parts = [_mark(mark, place) for mark in marks if _spans(lines, mark.step)]
  for line in lines:
    if line.raw:
      parts.append(f'<path class="raw {line.kind}" d="{_path(line.raw, place)}"/>')
    parts.append(f'<path class="line {line.kind}" d="{_path(line.points, place)}"/>')
    if len(line.points) <= 40:
      parts += [_dot(line.kind, *place(*point)) for point in line.points]
  said = "; ".join(
    f"{line.kind} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}"
    for line in lines
  )
  return _chart(f"{name} over steps: {said}", "".join(parts) + ticks)


def _spans(lines, step):
  first = min(line.points[0][0] for line in lines)
  return first < step <= max(line.points[-1][0] for line in lines)


def _mark(mark, place):
  x = place(mark.step, 0)[0]
  return (
    f'<path class="mark" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}">'
    f"<title>{text(mark.name)}</title></path>"
  )


def _dot(kind, x, y):
  return f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'


def _frame(all_points, decades):
  """(function from (step, value) to a place in the frame, axes and ticks as SVG)."""
  steps, values = zip(*(p for points in all_points for p in points), strict=True)
  first, last, low, high = min(steps), max(steps), min(values), max(values)
  log = decades and low > 0 and high / low >= 10
  bend = math.log10 if log else float
  across, up = (last - first) or 1, (bend(high) - bend(low)) or 1
  inside, height = _WIDTH - _LEFT - 6, _HEIGHT - _TOP - _BOTTOM

  def place(step, value):
    share = (bend(min(max(value, low), high)) - bend(low)) / up
    return _LEFT + (step - first) / across * inside, _TOP + (1 - share) * height

  ticks = [f'<path class="axis" d="M{_LEFT} {_TOP}v{height}h{inside}"/>']
  middle = 10 ** ((bend(low) + bend(high)) / 2) if log else (low + high) / 2
  for value in sorted({low, middle, high}):
    y = place(first, value)[1]
    ticks.append(
      f'<path class="grid" d="M{_LEFT} {y:.1f}h{inside}"/>'
      f'<text x="{_LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>'
    )
  below = "step" if not log else "step; logarithmic"
  ticks.append(
    f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{below} {first:,}</text>'
    f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 6}" text-anchor="end">{last:,}</text>'
  )
  return place, "".join(ticks)


def _path(points, place):
  stride = -(-len(points) // _MOST_POINTS)
  chosen = [*points[::stride], points[-1]]
  return "M" + "L".join("{:.1f} {:.1f}".format(*place(*point)) for point in chosen)
