"""The page: what comes first, what comes after, and that it stays small."""

import dataclasses
import importlib.resources
import json

from miras_jax.evaluation.report import (
  cards,
  charts,
  choose,
  curves,
  outcomes,
  summary,
  time_spent,
  turns,
)
from miras_jax.evaluation.report.markup import plural, section, text
from miras_jax.evaluation.report.pictures import Album

MOST_BYTES = 3_000_000  # of the page, pictures and all
_MOST_LIST = 700_000  # of the list of every prediction
_MOST_CONFIG = 60_000
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
LEGEND = (
  "Tinted, with an unbroken outline: the model’s mask. Yellow and dashed: the target."
  " Point at a picture, or press it, to see the photograph alone. Grey text is the gold"
  " answer where the model said something else. Outlines are simplified."
)
FAILURES = {
  outcomes.EXTENT: "it covers its own target, or lies in it, by half",
  outcomes.OBJECT: "it fits another annotated target better, or none",
  outcomes.MISSING: "a target, and no [SEG] or an empty mask",
  outcomes.EXTRA: "a mask where nothing is to be masked",
}


@dataclasses.dataclass
class Shown:
  """Where a conversation appears: the group of its card, the failures drawn of it."""

  group: str = ""
  failures: list = dataclasses.field(default_factory=list)


class Page:
  """Takes the conversations that are drawn, one at a time, then renders."""

  def __init__(self, result, rows, curves_of, unread=0, lives=(), stages=()):
    self._result, self._rows, self._lives = result, rows, lives
    self._curves, self._unread, self._stages = curves_of, unread, stages
    self._album = Album()
    self._cards = {group: [] for group in choose.GROUPS}
    self._failures = {kind: [] for kind in FAILURES}
    self._left_out = 0

  def add(self, example, line, row, shown):
    """example: drawing.Example of `line`; row: its outcomes.Row; shown: Shown."""
    if shown.group:
      self._cards[shown.group].append(cards.card(self._album, example, line, row))
    for outcome in shown.failures:
      figure = cards.failure(self._album, example, line, row, outcome)
      self._failures[outcome.kind].append(figure)

  def render(self) -> str:
    """The whole page as text, MOST_BYTES in UTF-8 at most: what is drawn is halved
    where even the smallest photographs take more."""
    text_of_page = self._assemble()
    while len(text_of_page.encode()) > MOST_BYTES and self._halve():
      text_of_page = self._assemble()
    return text_of_page

  def _halve(self):
    """Leaves out half of what is drawn; False where there is nothing."""
    drawn = [*self._cards.values(), *self._failures.values()]
    for figures in drawn:
      self._left_out += len(figures) - len(figures) // 2
      del figures[len(figures) // 2 :]
    return any(drawn)

  def _assemble(self):
    result = self._result
    sections = {
      "depends": summary.depends(result),
      "outcomes": self._outcomes(),
      "conversations": self._conversations(),
      "failures": self._failed(),
      "training": curves.render(self._curves, self._unread, self._stages),
      "turns": turns.by_turn(result),
      "calibration": turns.calibration(result),
      "time": time_spent.render(self._lives),
      "metrics": summary.metrics(result),
      "every": _every(self._rows),
      "provenance": summary.provenance(result),
      "configuration": _config(result.get("config")),
    }
    title = f"MIRAS evaluation: {result.get('data', {}).get('split', '')}"
    body = "\n".join(
      [summary.header(result, title, sections), *sections.values(), "</main></body>"]
    )
    css = importlib.resources.files("miras_jax").joinpath("report.css").read_text()
    head = (
      '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
      f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f"<title>{text(title, 200)}</title><style>{css}</style></head><body><main>"
    )
    room = MOST_BYTES - len((head + body).encode()) - 10
    return f"{head}{self._album.definitions(room, body)}{body}</html>\n"

  def _outcomes(self):
    rows = self._rows
    ious = [iou for row in rows for iou in row.ious]
    parts = []
    if ious:
      parts.append(
        f'<div class="card"><h3>IoU of {plural(len(ious), "target")}</h3>'
        f"{charts.histogram(ious)}</div>"
      )
    known = [row for row in rows if row.outcomes is not None]
    if known:
      parts.append(
        f'<div class="card"><h3>What became of them</h3>{_kinds(known)}</div>'
      )
    note = (
      "An IoU of 0.5 counts as right. Targets that are empty are not in the histogram."
    )
    if len(known) < len(rows):
      note += (
        f" Failures are grouped by the target masks of predictions.jsonl, which"
        f" {plural(len(rows) - len(known), 'line')} of {len(rows):,} do not have."
      )
    body = f'<div class="pair">{"".join(parts)}</div>'
    return section("outcomes", "How good the masks are", body, note) if rows else ""

  def _conversations(self):
    body = "".join(
      f'<h3 id="{group}">{choose.GROUPS[group]}</h3><div class="talks">{"".join(found)}'
      "</div>"
      for group, found in self._cards.items()
      if found
    )
    if not body:
      return ""
    note = LEGEND
    if self._left_out:
      note += f" {plural(self._left_out, 'picture')} more would not fit on the page."
    return section("conversations", "Conversations and their masks", body, note)

  def _failed(self):
    body = "".join(
      f'<h3 id="{_anchor(kind)}">{kind.capitalize()}: {FAILURES[kind]}</h3>'
      f'<div class="failures">{"".join(found)}</div>'
      for kind, found in self._failures.items()
      if found
    )
    note = "Some of each kind, drawn at random."
    return section("failures", "Failures", body, note) if body else ""


def _anchor(kind):
  return kind.replace(" ", "-")


def _kinds(rows):
  """Bars: how many masks of each kind there are."""
  every = [outcome.kind for row in rows for outcome in row.outcomes]
  counted = []
  for kind in outcomes.KINDS:
    count = every.count(kind)
    name = kind.capitalize()
    if count and kind in FAILURES:
      name = f'<a href="#{_anchor(kind)}">{name}</a>'
    counted.append((name, FAILURES.get(kind, ""), count, _anchor(kind)))
  return charts.counts(counted, len(every))


def _every(rows):
  """Each conversation, the worst first, with its line in predictions.jsonl."""
  order = sorted(rows, key=lambda row: (row.score is None, row.score, row.number))
  parts, size = [], 0
  for row in order:
    part = _prediction(row)
    size += len(part.encode())
    if size > _MOST_LIST:
      break
    parts.append(part)
  note = (
    'One conversation a line of <a href="predictions.jsonl">predictions.jsonl</a>,'
    " the worst first. <code>sed -n 12p predictions.jsonl</code> prints line 12."
  )
  if len(parts) < len(rows):
    note += f" The best {len(rows) - len(parts):,} of {len(rows):,} are left out here."
  body = (
    '<div class="card scroll" tabindex="0"><table><tr><th>line</th><th>conversation'
    f"</th><th>IoU</th><th>outcome</th></tr>{''.join(parts)}</table></div>"
  )
  return section("every", "Every prediction", body, note) if rows else ""


def _prediction(row):
  pairs = zip(row.names, row.all_ious, strict=True)
  ious = ", ".join(f"{iou:.2f} {name or 'empty'}" for name, iou in pairs)
  kinds = ", ".join(dict.fromkeys(outcome.kind for outcome in row.outcomes or ()))
  return (
    f'<tr id="line{row.number}"><td>{row.number}</td><td>{text(row.id, 80)}</td>'
    f"<td>{text(ious, 200)}</td><td>{kinds}</td></tr>"
  )


def _config(config):
  if not config:
    return ""
  shown = json.dumps(config, indent=1, sort_keys=True, default=str)
  body = (
    "<details class='card'><summary>show</summary>"
    f"<pre>{text(shown, _MOST_CONFIG)}</pre></details>"
  )
  return section("configuration", "Configuration of the run", body)
