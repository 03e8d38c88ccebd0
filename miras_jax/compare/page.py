"""The page of a comparison: differences with intervals, and what changed most.

It loads nothing from outside, runs no script, and shows every text of data and models
escaped. It stays below MOST_BYTES: examples that do not fit are left out and counted.
"""

import base64
import importlib.resources

import numpy as np

from miras_jax import drawing
from miras_jax.compare import predictions, tables
from miras_jax.compare.result import hopeless, number, otherwise, power_text
from miras_jax.page_text import escaped as _text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MOST_BYTES = 2_900_000
MOST_PAIRS = 28  # drawn; compare.json has them all
MOST_TURNS = 12
MOST_PIXELS = 1_000_000_000  # of the masks of a card
MOST_LETTERS = 400  # of a turn
SIDE = 260  # of a picture, pixels
BLANK = 60  # grey of the ground where there is no photograph
STYLE = (
  "td.yes { font-weight: 700; } .zero { stroke: var(--soft); stroke-dasharray: 3 3; }"
  ".who { font-weight: 700; margin-right: 6px; } .faint { opacity: .55; }"
  "svg.forest { max-width: 520px; } .card + .card { margin-top: 12px; }"
  "details pre { white-space: pre; }"
  ".panels { grid-template-columns: repeat(auto-fit, minmax(150px, 260px)); }"
)


def render(result, runs, examples, data, most) -> str:
  """The page as text. data: `data_set.DataSet`; most: how many examples to draw."""
  css = importlib.resources.files("miras_jax").joinpath("report.css").read_text()
  title = "Comparison of " + ", ".join(run.label for run in runs)
  head = [
    f"<h1>{_text(title)}</h1>",
    *(f'<p class="sub">{_run(run)}</p>' for run in result["runs"]),
    f'<p class="sub">{_counts(result)}</p>',
    _problems(result),
    *(_note(line) for line in (hopeless(result), *otherwise(result))),
    *(_pair(pair, result) for pair in result["pairs"][:MOST_PAIRS]),
  ]
  if result.get("power"):
    lines = "\n".join(power_text(result["power"])).strip()
    head.append(
      '<details class="card"><summary>How many images a difference needs</summary>'
      f"<pre>{_text(lines)}</pre></details>"
    )
  if (more := len(result["pairs"]) - MOST_PAIRS) > 0:
    head.append(f'<p class="note">{more} more pairs are in compare.json.</p>')
  start = (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{_text(title)}</title><style>{css}{STYLE}</style></head><body><main>"
  )
  body = start + "\n".join(filter(None, head))
  room = MOST_BYTES - len(body.encode())
  return body + _changed(result, examples, data, most, room) + "</main></body></html>\n"


def _run(run):
  step = "" if run["step"] is None else f", step {run['step']}"
  where = f" ({_text(run['checkpoint'])}{step})" if run["checkpoint"] else ""
  return f'<span class="who">{run["label"]}</span>{_text(run["path"])}{where}'


def _counts(result):
  return (
    f"{result['examples']:,} conversations, {result['targets']:,} targets,"
    f" {result['images']:,} images; {result['tests']} tests at level {result['level']}"
  )


def _problems(result):
  """What was scored as empty: nobody should take the numbers for clean ones."""
  told = [
    f"{run}: {count} ({kind.replace('_', ' ')})"
    for kind, counts in result["problems"].items()
    for run, count in counts.items()
  ]
  if not told:
    return ""
  return f'<div class="card"><b>Scored as empty:</b> {_text("; ".join(told))}</div>'


def _note(line):
  return f'<p class="note">{_text(line)}</p>' if line else ""


def _pair(pair, result):
  a, b = pair["a"], pair["b"]
  values = {run["label"]: run["metrics"] for run in result["runs"]}
  rows = "".join(
    f'<tr><td class="name">{_text(name)}</td>'
    f"<td>{number(values[a][name]['value'])}</td>"
    f"<td>{number(values[b][name]['value'])}</td>"
    f"<td>{number(row['difference'], sign=True)}</td>"
    f"<td>{number(row['low'])} to {number(row['high'])}</td>"
    f"<td>{number(row['p'], 4)}</td>"
    f'<td class="{"yes" if row["significant"] else ""}">{number(row["p_holm"], 4)}</td>'
    f"<td>{number(row['effect'], 2, sign=True)}</td>"
    f"<td>{row['higher']} / {row['lower']}</td></tr>"
    for name, row in pair["metrics"].items()
  )
  head = (a, b, f"{b} − {a}", "interval", "p", "p Holm", "effect", "images up / down")
  return (
    f"<h2>{b} against {a}: {_verdict(pair)}</h2>"
    f'<p class="note">Interval: {100 * (1 - result["level"]):.4g} %, paired bootstrap'
    f" over images. p: permutation test, {pair['swaps']:,} swaps. p Holm: corrected"
    " over all tests of this page, bold where significant. Effect: difference over the"
    " standard deviation between images.</p>"
    f'<div class="card">{_forest(pair["metrics"])}</div>'
    '<div class="card" tabindex="0"><table class="wide"><tr><th>metric</th>'
    f"{''.join(f'<th>{_text(x)}</th>' for x in head)}</tr>{rows}</table></div>"
  )


def _verdict(pair):
  """`lower in ciou, giou; higher in rouge_l`: what is significant, and which way."""
  found = {k: row for k, row in pair["metrics"].items() if row["significant"]}
  higher = [name for name, row in found.items() if row["difference"] > 0]
  lower = [name for name in found if name not in higher]
  told = [f"higher in {_named(higher)}"] if higher else []
  told += [f"lower in {_named(lower)}"] if lower else []
  if not told:
    same = all(row["differ"] == 0 for row in pair["metrics"].values())
    return "no difference in any image" if same else "no significant difference"
  return f"significantly {', '.join(told)}"


def _named(names):
  more = f" and {len(names) - 4} more" if names[4:] else ""
  return _text(", ".join(names[:4]) + more)


def _forest(metrics, left=140, width=200, step=22):
  """Each metric's difference with its interval; faint where it is not significant.

  As narrow as a phone: what is scaled down cannot be read.
  """
  shown = {k: row for k, row in metrics.items() if row["low"] is not None}
  limit = max([abs(row[k]) for row in shown.values() for k in ("low", "high")] + [0.01])
  middle, scale = left + width / 2, width / 2 / limit
  height = step * len(shown)
  parts = [f'<path class="axis zero" d="M{middle} 0V{height}"/>']
  for i, (name, row) in enumerate(shown.items()):
    y = i * step + step / 2
    low, high, value = (middle + row[k] * scale for k in ("low", "high", "difference"))
    kind = "" if row["significant"] else ' class="faint"'
    parts.append(
      f'<text class="label" x="0" y="{y + 4}">{_text(name)}</text><g{kind}>'
      f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}"/>'
      f'<circle class="dot" cx="{value:.1f}" cy="{y}" r="4"/></g>'
    )
  for x, value in ((left, -limit), (middle, 0.0), (left + width, limit)):
    said = number(value, sign=True)
    parts.append(f'<text x="{x}" y="{height + 14}" text-anchor="middle">{said}</text>')
  size = f"0 0 {left + width + 26} {height + 20}"
  return f'<svg class="chart forest" viewBox="{size}" role="img">{"".join(parts)}</svg>'


def _changed(result, examples, data, most, room):
  """Cards of what changed most, each way where two runs are compared."""
  rows = [row for row in result["changed"] if row["spread"] > 0]
  if not rows or not most:
    return ""
  note = f'<p class="note">{_ground(data)}</p>'
  out, left_out = f"<h2>What changed most</h2>{note}", 0
  for title, chosen in _groups(rows, result, most):
    out += f"<h3>{_text(title)}</h3>" if title and chosen else ""
    for row in chosen:
      example = examples[row["example"]]
      card = _card(row, example, data) if _pixels(example) <= MOST_PIXELS else ""
      fits = card and len(out.encode()) + len(card.encode()) < room
      out += card if fits else ""
      left_out += not fits
  if left_out:
    out += f'<p class="note">{left_out} more do not fit this page.</p>'
  return out


def _ground(data):
  told = "Mean IoU of the conversation's targets in each run. "
  if data.why:
    return _text(f"{told}Masks alone: {data.why}.")
  return f"{told}On a grey ground: its photograph cannot be read."


def _groups(rows, result, most):
  labels = [run["label"] for run in result["runs"]]
  if len(labels) != 2:
    return [("", rows[:most])]
  a, b = labels
  up = [row for row in rows if row["iou"][b] > row["iou"][a]]
  down = [row for row in rows if row["iou"][b] < row["iou"][a]]
  half = most // 2
  first = max(most - half, most - len(down))
  return [
    (f"Better in {b} ({len(up)} conversations)", up[:first]),
    (f"Better in {a} ({len(down)} conversations)", down[: most - len(up[:first])]),
  ]


def _pixels(example):
  """Of all masks of a card, which are drawn together."""
  sizes = (rle["size"] for rle in example.true)
  return sum(h * w for h, w in sizes) * (1 + len(example.talks))


def _card(row, example, data):
  photo_HWC = data.photograph(example.image)
  panels = [("target", [predictions.decode(rle) for rle in example.true])]
  shape = panels[0][1][0].shape
  for label, talk in zip(row["iou"], example.talks, strict=True):
    masks = [tables.predicted(target.mask, shape)[0] for target in talk.targets]
    panels.append((f"{label}: {row['iou'][label]:.2f}", masks))
  figures = "".join(_figure(title, photo_HWC, masks) for title, masks in panels)
  caption = ", ".join(f"{label} {iou:.2f}" for label, iou in row["iou"].items())
  return (
    f'<article class="card example"><header><b>{_text(row["id"][:MOST_LETTERS])}</b>'
    f" IoU: {caption}</header>"
    f'<div class="chat">{_chat(row["iou"], example)}</div>'
    f'<div class="panels">{figures}</div></article>'
  )


def _chat(labels, example):
  out = []
  for k, turn in list(enumerate(example.talks[0].turns))[-MOST_TURNS:]:
    out.append(_said("user", "", turn.user))
    answers = [talk.turns[k].answer for talk in example.talks]
    if len(set(answers)) == 1:
      out.append(_said("model", "", answers[0]))
    else:
      out += [_said("model", *said) for said in zip(labels, answers, strict=True)]
    if turn.gold.strip() not in {answer.strip() for answer in answers}:
      out.append(_said("gold", "", turn.gold))
  return "".join(out)


def _said(kind, label, text):
  who = f'<span class="who">{_text(label)}</span>' if label else ""
  return f'<p class="{kind}" dir="auto">{who}{_text(text[:MOST_LETTERS])}</p>'


def _figure(title, photo_HWC, masks):
  shape = masks[0].shape
  if photo_HWC is None or photo_HWC.shape[:2] != shape:
    photo_HWC = np.full((*shape, 3), BLANK, np.uint8)
  picture = drawing.draw_panel(drawing.Panel(title, photo_HWC, tuple(masks)), SIDE)
  data = base64.b64encode(drawing.encode(picture, "JPEG")).decode("ascii")
  title = _text(title)
  return (
    f'<figure><img src="data:image/jpeg;base64,{data}" alt="{title}">'
    f"<figcaption>{title}</figcaption></figure>"
  )
