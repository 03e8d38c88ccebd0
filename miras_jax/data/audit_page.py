"""The page of an audit: counts, and the worst of each kind with picture and mask.

It loads nothing from outside, runs no script, and every text of the data is escaped.
Pictures are read again here, so that the audit itself keeps none.
"""

import base64
import importlib.resources

from input_pipeline import image_ops, mask_ops
from input_pipeline.audit.findings import KINDS, Finding, Findings, Place
from input_pipeline.audit.run import Part
from input_pipeline.records import RecordError
from miras_jax import drawing
from miras_jax.page_text import escaped as _text

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SIDE = 300  # of a picture, pixels
_MOST_TURNS = 12
_MOST_LETTERS = 400  # of a turn


def render(place, parts: list[Part], findings: Findings, unreadable=()) -> str:
  """The page as text."""
  css = importlib.resources.files("miras_jax").joinpath("report.css").read_text()
  title = f"Audit: {place}"
  said = "".join(f'<p class="note">{_text(line)}</p>' for line in unreadable)
  sections = [
    _section(kind, worst, findings.counts[kind], parts)
    for kind, worst in findings.worst.items()
    if worst
  ]
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{_text(title)}</title><style>{css}</style></head><body><main>"
    f"<h1>{_text(title)}</h1>{_subtitle(parts)}{said}{_counts(findings)}"
    + "\n".join(sections)
    + "</main></body></html>\n"
  )


def _subtitle(parts):
  def listed(audited):
    chosen = [part for part in parts if part.audited == audited]
    return ", ".join(f"{part.name} ({len(part.source):,} records)" for part in chosen)

  against = listed(False)
  lines = [listed(True), *([f"compared with {against}"] if against else [])]
  return "".join(f'<p class="sub">{_text(line)}</p>' for line in lines)


def _counts(findings):
  rows = "".join(
    f'<tr><td class="name">{kind}</td><td>{findings.counts[kind]:,}</td>'
    f"<td>{'fails' if fails else 'note'}</td>"
    f'<td class="what">{_text(text)}</td></tr>'
    for kind, (text, fails) in KINDS.items()
  )
  return (
    '<h2>Counts</h2><div class="card"><table><tr><th>kind</th><th>findings</th>'
    f"<th></th><th></th></tr>{rows}</table></div>"
  )


def _section(kind, worst, count, parts):
  cards = "".join(_card(finding, parts) for finding in worst)
  note = f"The worst {len(worst)} of {count:,}." if count > len(worst) else ""
  return f'<h2>{kind}: {_text(KINDS[kind].text)}</h2><p class="note">{note}</p>{cards}'


def _card(finding: Finding, parts):
  record = _load(finding.at, parts)
  turns = () if record is None else record.turns[-_MOST_TURNS:]
  chat = "".join(
    f'<p class="{"user" if role == "user" else "model"}" dir="auto">'
    f"{_text(text[:_MOST_LETTERS])}</p>"
    for role, text in turns
  )
  figures = _figures(finding.at, record, finding.target)
  if finding.other:
    figures += _figures(finding.other, _load(finding.other, parts), -2)
  return (
    f'<article class="card example"><header>{_text(finding)}</header>'
    f'<div class="chat">{chat}</div><div class="panels">{figures}</div></article>'
  )


def _load(place: Place, parts):
  """The record, or None for a defective one."""
  record = parts[place.source].source.load(place.record)
  return None if isinstance(record, RecordError) else record


def _figures(place, record, target):
  """The picture, and beside it the mask in question; target -1: all, -2: none."""
  if record is None or not record.image:
    return ""
  try:
    image_HWC = image_ops.decode_image(record.image)
    kept = record.targets if target == -1 else record.targets[target : target + 1]
    kept = (
      [(name, mask_ops.decode_rle(rle)) for name, rle in kept] if target > -2 else []
    )
    figures = _figure(f"{record.image_id}, record {place.record}", image_HWC, ())
    if kept:
      title = ", ".join(name or "nothing" for name, _ in kept)
      figures += _figure(title, image_HWC, [mask for _, mask in kept])
    return figures
  except (image_ops.ImageError, ValueError):
    return ""  # the finding says what is wrong with it


def _figure(title, image_HWC, masks):
  panel = drawing.Panel(title, image_HWC, tuple(masks))
  data = drawing.encode(drawing.draw_panel(panel, _SIDE), "JPEG")
  source = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
  title = _text(title)
  return (
    f'<figure><img src="{source}" alt="{title}">'
    f"<figcaption>{title}</figcaption></figure>"
  )
