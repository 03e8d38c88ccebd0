"""The evaluation report: one self-contained page, the curves and the overlays.

`write_report` writes `index.html`, `curves.png` and `overlays.png` into a folder. The
page loads nothing from outside, runs no script, and shows every text that came from
data or model escaped: both are untrusted.
"""

import base64
import html
import importlib.resources
import json
import pathlib

import numpy as np

from miras_jax import drawing
from miras_jax.training import metrics_log

# fmt: off
MEANING = {
  "ciou": "summed intersections over summed unions",
  "giou": "mean IoU of the targets; 1 where both masks are empty",
  "miou_no_empty": "mean IoU of the targets that are not empty",
  "precision_micro": "of all predicted pixels, the share that is right",
  "recall_micro": "of all target pixels, the share that is found",
  "f1_micro": "harmonic mean of the two, over pooled pixels",
  "precision_macro": "precision of each target, averaged",
  "recall_macro": "recall of each target, averaged",
  "f1_macro": "F1 of each target, averaged",
  "biou": "mean boundary IoU: only pixels near the outlines count",
  "biou_canny": "published form: exact overlap of Canny edges",
  "roi_accuracy": "mean recall, 0 for an empty target (published form)",
  "no_target_accuracy": "empty targets answered by an empty mask",
  "n_acc": "the same, under the name that gRefCOCO gives it",
  "t_acc": "targets that are there and get a mask, right or wrong (gRefCOCO)",
  "n_acc@50px": "n_acc where a mask of under 50 pixels counts as empty",
  "t_acc@50px": "t_acc where a mask of under 50 pixels counts as empty",
  "seg_rate": "answers that contain [SEG] when one is due",
  "seg_count_exact": "answers with exactly as many [SEG] as are due",
  "false_seg_rate": "answers that contain [SEG] though none is due",
  "surplus_seg": "[SEG] beyond those due, per answer",
  "bleu4": "n-gram precision of the answers (sacrebleu, 0 to 1)",
  "meteor": "words that match, also by stem, synonym and paraphrase (0 to 1)",
  "cider": "n-grams shared with the gold answers, rare ones count more (0 to 10)",
  "grounded_accuracy": "root of ROUGE-L times IoU: text and mask must both be right",
  "grounded_accuracy_exact": "the same; a text is right word by word, or not at all",
  "grounded_accuracy_name": "the same; a text is right if it names the target",
  "ece": "how far the predicted IoU is from the actual one (calibration error)",
  "rouge_l": "longest common subsequence with the gold answers (F)",
  "dist1": "distinct words over words",
  "dist2": "distinct word pairs over word pairs",
}
CONTROLS = {
  "swapped_conversation": "the user turns of another conversation about the image",
  "last_turn_only": "the last request alone, without the turns before it",
  "swapped_image": "the same conversation about another image",
  "attribute_lie": "a colour, side, height or size that the target has not is named",
  "absent_target": "asked for something not in the picture: right is an empty mask",
  "history_shuffled": "the turns before the last request, in another order",
}
# fmt: on
HEADLINE = (
  "ciou",
  "giou",
  "p@0.5",
  "precision_micro",
  "recall_micro",
  "f1_micro",
  "seg_rate",
)  # fmt: skip
TERMS = ("token_ce", "mask_bce", "dice", "focal", "boundary")
MOST_CURVES = 100
LARGEST_DRAWN = 1e100  # what plots can scale
MOST_POINTS = 400  # of one curve in the page
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(out, result, examples, log=None):
  """Writes index.html, curves.png and overlays.png into folder `out`.

  `result` is the object of metrics.json, `examples` a list of `overlays.Example`, `log`
  the path of a training run's metrics.jsonl (absent: no curves). Returns index.html.
  """
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  curves, unread = read_curves(log) if log else ({}, 0)
  drawing.save_grid(out / "overlays.png", examples)
  if curves:
    save_curves(out / "curves.png", curves)
  page = out / "index.html"
  page.write_text(render(result, examples, curves, unread), encoding="utf-8")
  return page


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
  kept = sorted(curves.items(), key=_rank)[:MOST_CURVES]
  return {k: sorted(v.items()) for k, v in kept}, unread


def _is_number(x):
  if not isinstance(x, (int, float)) or isinstance(x, bool):
    return False
  return abs(x) < LARGEST_DRAWN  # false for NaN


def _rank(item):
  """Order of the plots: loss, cIoU on the probe and in training, the loss terms, then
  the rest by name."""
  name = item[0]
  first = ("loss", "probe_ciou", "ciou", *TERMS)
  return (first.index(name) if name in first else len(first)), name


def smooth(points, share=0.05):
  """Centred moving average over `share` of the points; no lag, shorter at the ends."""
  steps, values = zip(*points, strict=True)
  total_N = np.concatenate([[0.0], np.cumsum(values)])
  reach, index_N = int(len(values) * share / 2), np.arange(len(values))
  # As far on the left as on the right, or the ends would lean inwards.
  reach_N = np.minimum(np.minimum(index_N, index_N[::-1]), reach)
  first_N, last_N = index_N - reach_N, index_N + reach_N + 1
  mean_N = (total_N[last_N] - total_N[first_N]) / (last_N - first_N)
  return list(zip(steps, mean_N.tolist(), strict=True))


def save_curves(path, curves, columns=3):
  """All curves as small multiples in one PNG."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  rows = -(-len(curves) // columns)
  figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
  FigureCanvasAgg(figure)
  for i, (name, points) in enumerate(curves.items()):
    axes = figure.add_subplot(rows, columns, i + 1)
    axes.plot(*zip(*points, strict=True), color="#0072b2", alpha=0.3, linewidth=0.8)
    axes.plot(*zip(*_line(name, points), strict=True), color="#0072b2", linewidth=1.5)
    # parse_math: a name with "$" from a log is text, not a formula.
    axes.set_title(name, fontsize=10, loc="left", parse_math=False)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
  figure.savefig(path, dpi=110)


def _line(name, points):
  """What the strong line shows: noisy curves smoothed, schedules and probes as is."""
  return points if name == "learning_rate" or "ciou" in name else smooth(points)


def render(result, examples, curves, unread=0):
  """The whole page as text."""
  css = importlib.resources.files("miras_jax").joinpath("report.css").read_text()
  title = f"MIRAS evaluation: {result.get('data', {}).get('split', '')}"
  body = [
    _header(result, title),
    _tiles(result["metrics"]),
    _controls(result),
    _table(result),
    _per_turn(result.get("per_turn", {})),
    _curves(curves, unread),
    _examples(examples),
    _config(result.get("config")),
  ]
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{_text(title)}</title><style>{css}</style></head><body><main>"
    + "\n".join(part for part in body if part)
    + "</main></body></html>\n"
  )


def _text(x):
  """Escaped for element content and for quoted attributes."""
  return html.escape(str(x), quote=True)


def number(x, digits=3):
  """A value for people: `0.512`, or a dash where there is none."""
  return "–" if x is None else f"{x:.{digits}f}"


def _range(m):
  return "" if m.get("low") is None else f"{number(m['low'])} to {number(m['high'])}"


def _header(result, title):
  facts = {k: _fact(v) for k, v in result.get("data", {}).items()}
  data = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in facts.items())
  lines = [f"checkpoint {result.get('checkpoint', '')}", data]
  return f"<h1>{_text(title)}</h1>" + "".join(
    f'<p class="sub">{_text(line)}</p>' for line in lines
  )


def _fact(x):
  """A list is told by its length: defective records may be many."""
  return len(x) if isinstance(x, (list, tuple, dict)) else x


def _tiles(found):
  tiles = [
    f'<div class="card tile"><span>{_text(k)}</span><b>{number(found[k]["value"])}</b>'
    f"<span>{_range(found[k])}</span></div>"
    for k in HEADLINE
    if k in found
  ]
  return f'<div class="tiles">{"".join(tiles)}</div>'


def _controls(result):
  """Bars: cIoU of the model against its controls, with intervals."""
  controls = result.get("controls") or {}
  if not controls:
    return ""
  rows = [("free-running", "", result["metrics"]["ciou"])]
  rows += [(k, CONTROLS.get(k, ""), v["ciou"]) for k, v in controls.items()]
  return (
    "<h2>Does the mask follow the conversation and the image?</h2>"
    '<p class="note">cIoU against the original targets, same checkpoint. Each control '
    "takes one thing away; the mask must suffer.</p>"
    f'<div class="card">{_bars(rows)}</div>'
  )


def _bars(rows, left=190, width=330, step=30):
  """Name, bar with its interval, value, and what the control is."""
  highest = max([m["high"] or m["value"] or 0 for *_, m in rows] + [0.01])
  scale, after = width / highest, left + width + 14
  parts = []
  for i, (name, meaning, m) in enumerate(rows):
    y, value = i * step + 6, m["value"] or 0
    kind = "bar" if i else "bar main"
    parts.append(
      f'<text class="label" x="0" y="{y + 14}">{_text(name.replace("_", " "))}</text>'
      f'<rect class="{kind}" x="{left}" y="{y}" height="18" rx="3" '
      f'width="{value * scale:.1f}"/>'
      f'<text class="label" x="{after}" y="{y + 14}">{number(m["value"])}</text>'
      f'<text x="{after + 52}" y="{y + 14}">{_text(meaning)}</text>'
    )
    if m["low"] is not None:
      low, high = (left + m[k] * scale for k in ("low", "high"))
      parts.append(f'<path class="whisker" d="M{low:.1f} {y + 9}H{high:.1f}"/>')
  size = f"0 0 {after + 420} {len(rows) * step + 6}"
  return f'<svg viewBox="{size}" role="img">{"".join(parts)}</svg>'


def _table(result):
  """Every metric with interval; the teacher-forced value beside it."""
  forced = result.get("teacher_forced") or {}
  rows = []
  for name, m in result["metrics"].items():
    beside = number(forced[name]["value"]) if name in forced else ""
    rows.append(
      f'<tr><td class="name">{_text(name)}</td><td>{number(m["value"])}</td>'
      f"<td>{_range(m)}</td><td>{m['n']}</td><td>{beside}</td>"
      f'<td class="what">{_text(_meaning(name))}</td></tr>'
    )
  return (
    "<h2>Metrics</h2>"
    '<p class="note">Free-running: the model’s own answers are the history, and a '
    "target without a [SEG] counts as an empty mask. Intervals: 95 %, bootstrap over "
    "images. Teacher-forced: the gold dialogue is read in one pass.</p>"
    '<div class="card"><table><tr><th>metric</th><th>value</th><th>interval</th>'
    f"<th>n</th><th>teacher-forced</th><th></th></tr>{''.join(rows)}</table></div>"
  )


def _meaning(name):
  if name.startswith("p@"):
    return f"share of targets with an IoU of at least {name[2:]}"
  return MEANING.get(name, "")


def _per_turn(turns):
  if not turns:
    return ""
  rows = "".join(
    f"<tr><td>{_text(turn)}</td><td>{number(m['ciou']['value'])}</td>"
    f"<td>{_range(m['ciou'])}</td><td>{number(m['giou']['value'])}</td>"
    f"<td>{_range(m['giou'])}</td><td>{m['giou']['n']}</td></tr>"
    for turn, m in turns.items()
  )
  return (
    "<h2>By turn in which the mask was due</h2>"
    '<div class="card"><table><tr><th>turn</th><th>ciou</th><th></th><th>giou</th>'
    f"<th></th><th>n</th></tr>{rows}</table></div>"
  )


def _curves(curves, unread):
  if not curves:
    return ""
  note = f'<p class="note">{unread} unreadable lines in the log.</p>' if unread else ""
  plots = "".join(
    f'<div class="card"><h3>{_text(name)}<span>last {points[-1][1]:.4g}</span></h3>'
    f"{_plot(name, points)}</div>"
    for name, points in curves.items()
  )
  return f'<h2>Training</h2>{note}<div class="plots">{plots}</div>'


def _plot(name, points, width=300, height=110, left=58):
  """One curve as SVG: raw faint, smoothed strong; a dot where there is one value."""
  steps, values = zip(*points, strict=True)
  x0, y0, y1 = steps[0], min(values), max(values)
  across, up = (steps[-1] - x0) or 1, (y1 - y0) or 1

  def place(x, y):
    right = left + (x - x0) / across * (width - left - 3)
    return f"{right:.1f} {6 + (1 - (y - y0) / up) * (height - 12):.1f}"

  def path(line):
    stride = -(-len(line) // MOST_POINTS)
    return "M" + "L".join(place(x, y) for x, y in line[::stride] + line[-1:])

  x, y = place(*points[-1]).split()
  dot = "" if len(points) > 1 else f'<circle class="dot" cx="{x}" cy="{y}" r="3"/>'
  return (
    f'<svg viewBox="0 0 {width} {height + 16}" role="img">'
    f'<path class="axis" d="M{left} 0V{height}H{width}"/>'
    f'<path class="raw" d="{path(points)}"/>'
    f'<path class="smooth" d="{path(_line(name, points))}"/>{dot}'
    f'<text x="{left - 5}" y="12" text-anchor="end">{y1:.3g}</text>'
    f'<text x="{left - 5}" y="{height - 2}" text-anchor="end">{y0:.3g}</text>'
    f'<text x="{width}" y="{height + 13}" text-anchor="end">step {steps[-1]}</text>'
    "</svg>"
  )


def _examples(examples):
  if not examples:
    return ""
  cards = "".join(_card(e) for e in examples)
  return (
    "<h2>Conversations and masks</h2>"
    '<p class="note">Drawn at random, not chosen. Grey lines are the gold answers '
    f"where the model said something else.</p>{cards}"
  )


def _card(example):
  chat = []
  for user, answer, gold in example.turns:
    chat.append(f'<p class="user" dir="auto">{_text(user)}</p>')
    chat.append(f'<p class="model" dir="auto">{_text(answer)}</p>')
    if gold and gold.strip() != answer.strip():
      chat.append(f'<p class="gold" dir="auto">{_text(gold)}</p>')
  return (
    f'<article class="card example"><header><b>{_text(example.id)}</b> '
    f'{_text(example.caption)}</header><div class="chat">{"".join(chat)}</div>'
    f'<div class="panels">{"".join(_figure(p) for p in example.panels)}</div></article>'
  )


def _figure(panel, side=300):
  data = drawing.encode(drawing.draw_panel(panel, side), "JPEG")
  source = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
  title = _text(panel.title)
  return (
    f'<figure><img src="{source}" alt="{title}">'
    f"<figcaption>{title}</figcaption></figure>"
  )


def _config(config):
  if not config:
    return ""
  text = json.dumps(config, indent=1, sort_keys=True, default=str)
  return (
    "<h2>Configuration</h2><details class='card'><summary>show</summary>"
    f"<pre>{_text(text)}</pre></details>"
  )
