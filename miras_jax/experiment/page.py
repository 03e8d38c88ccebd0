"""The page of an experiment: arms as bars with seeds and intervals, groups as curves.

It loads nothing from outside, runs no script and escapes every text.
"""

import importlib.resources

from miras_jax.compare.result import number
from miras_jax.evaluation.report.markup import plural
from miras_jax.page_text import escaped as _text

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = (
  "svg.chart { max-width: 560px; } .seed { fill: var(--ink); opacity: .55; }"
  "td.yes { font-weight: 700; } p.note { margin-bottom: 6px; }"
)


def render(result) -> str:
  """The page as text."""
  css = importlib.resources.files("miras_jax").joinpath("report.css").read_text()
  title = f"Experiment: {result['experiment']}"
  body = [
    f"<h1>{_text(title)}</h1>",
    f'<p class="sub">{_text(result["question"])}</p>',
    f'<p class="sub">{_text(_setting(result))}</p>',
    f'<p class="sub">{_text(_made(result["provenance"]))}</p>',
    *(f'<p class="note"><b>{_text(row["arm"])}</b>: {_text(row["about"])}</p>' for row
      in result["arms"]),
    *(_bars(result, metric) for metric in ("ciou", "giou")),
    _table(result),
    *(_group(name, values) for name, values in result["groups"].items()),
  ]  # fmt: skip
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{_text(title)}</title><style>{css}{STYLE}</style></head><body><main>"
    + "\n".join(body)
    + "</main></body></html>\n"
  )


def _setting(result):
  changed = ", ".join(f"{k}={v}" for k, v in result["fields"].items())
  return (
    f"{plural(result['seeds'], 'seed')} of {result['steps']} steps on {result['data']},"
    f" {result['conversations']} held-out conversations"
    + (f"; all arms: {changed}" if changed else "")
  )


def _made(found):
  versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
  return f"commit {found['commit'] or 'unknown'}; {versions}; {found['device']}"


def _bars(result, metric, left=116, width=200, step=34):
  """A bar an arm: the mean of its seeds, its interval, a dot a seed."""
  rows = [(row["arm"], row["about"], row["metrics"][metric]) for row in result["arms"]]
  highest = max([m["high"] or 0 for *_, m in rows] + [x or 0 for *_, m in rows for x in
                m["seeds"]] + [0.01])  # fmt: skip
  scale, parts = width / highest, []
  for i, (name, about, m) in enumerate(rows):
    y, value = i * step + 6, m["value"] or 0
    parts.append(
      f'<text class="label" x="0" y="{y + 13}">{_text(name)}</text>'
      f'<rect class="bar{"" if i else " main"}" x="{left}" y="{y}" height="18" rx="3"'
      f' width="{value * scale:.1f}"><title>{_text(about)}</title></rect>'
      f'<text class="label" x="{left + width + 14}" y="{y + 13}">'
      f"{number(m['value'])}</text>"
    )
    parts += [
      f'<circle class="seed" cx="{left + x * scale:.1f}" cy="{y + 9}" r="3"/>'
      for x in m["seeds"]
      if x is not None
    ]
    if m["low"] is not None:
      low, high = (left + m[k] * scale for k in ("low", "high"))
      parts.append(f'<path class="whisker" d="M{low:.1f} {y + 22}H{high:.1f}"/>')
  size = f"0 0 {left + width + 54} {len(rows) * step + 6}"
  return (
    f'<h2>{metric}</h2><p class="note">Bar: mean of the seeds. Dots: seeds. Line below:'
    " 95 % interval, bootstrap over seeds and images.</p>"
    f'<div class="card"><svg class="chart" viewBox="{size}" role="img">{"".join(parts)}'
    "</svg></div>"
  )


def _table(result):
  names = list(result["arms"][0]["metrics"])
  base = result["arms"][0]["arm"]
  head = "".join(f"<th>{_text(name)}</th>" for name in names)
  rows = "".join(_row(row, names) for row in result["arms"])
  return (
    "<h2>All metrics</h2>"
    f'<p class="note">Difference of ciou from “{_text(base)}” with its interval; p of a'
    " permutation test over images, Holm-corrected over all arms and ciou, giou. It"
    " speaks of these runs, not of seeds that were not trained.</p>"
    '<div class="card" tabindex="0"><table class="wide"><tr><th>arm</th>'
    f"{head}<th>ciou − {_text(base)}</th>"
    f"<th>p Holm</th></tr>{rows}</table></div>"
  )


def _row(row, names):
  cells = "".join(
    f"<td>{number(row['metrics'][n]['value'])}<br>{_ends(row['metrics'][n])}</td>"
    for n in names
  )
  found = row["difference"].get("ciou")
  tail = "<td></td><td></td>"
  if found:
    strong = "yes" if (found["p_holm"] or 1) <= 0.05 else ""
    tail = (
      f"<td>{number(found['value'], sign=True)}<br>{_ends(found)}</td>"
      f'<td class="{strong}">{number(found["p_holm"], 4)}</td>'
    )
  return f'<tr><td class="name">{_text(row["arm"])}</td>{cells}{tail}</tr>'


def _ends(m):
  if m["low"] is None:
    return ""
  return f"<small>{number(m['low'])} to {number(m['high'])}</small>"


def _group(name, values, left=40, height=180):
  """giou by group: a point with its interval, and how many targets it stands for."""
  if not values:
    return f'<p class="note">By {_text(name)}: the data do not say.</p>'
  gap, parts, line = max(70, 300 / len(values)), [], []
  width = gap * len(values)
  for i, (value, row) in enumerate(values.items()):
    m, x = row["giou"], left + gap * (i + 0.5)
    y = _height(m["value"], height)
    line.append(f"{x:.1f} {y:.1f}")
    if m["low"] is not None:
      low, high = (_height(m[k], height) for k in ("low", "high"))
      parts.append(f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
    parts.append(
      f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
      f'<text x="{x + 8:.1f}" y="{y - 6:.1f}">{number(m["value"], 2)}</text>'
      f'<text class="label" x="{x:.1f}" y="{height + 20}" text-anchor="middle">'
      f"{_text(value)}</text>"
      f'<text x="{x:.1f}" y="{height + 36}" text-anchor="middle">{m["n"]} targets'
      "</text>"
    )
  ticks = "".join(
    f'<text x="{left - 8}" y="{_height(tick, height) + 4:.1f}" text-anchor="end">'
    f"{tick}</text>"
    for tick in (0, 0.5, 1)
  )
  return (
    f"<h2>giou by {_text(name)}</h2><div class='card'>"
    f'<svg class="chart" viewBox="0 0 {left + width} {height + 44}" role="img">'
    f'<path class="axis" d="M{left} 8V{height}H{left + width}"/>{ticks}'
    f'<path class="line" d="M{"L".join(line)}"/>{"".join(parts)}</svg></div>'
  )


def _height(value, height):
  return height - (value or 0) * (height - 8)
