"""What the turns of a conversation say: by turn, whose history, the way to the target;
and whether the model knows how good a mask is."""

from input_pipeline import prist_x
from miras_jax.evaluation.report import charts
from miras_jax.evaluation.report.markup import number, plural, section, text

_MOST_NAME, _MOST_ROWS = 80, 300
_GROUPS = {
  "edit": ("Which edit of an earlier mask it is", {"new": "of none"} | prist_x.EDITS),
  "of": ("What the mask is of", prist_x.OF),
}
_STATE = {
  "first_ciou": "cIoU of masks that follow from none",
  "edits_ciou": "cIoU of all that follow from an earlier mask",
  "same_again": "IoU of a mask that is asked for again with the earlier one",
  "same_again@0.95": "share of those that stay the same",
  "copying": "share of the others that show the earlier mask all the same",
  "swapped_follows": "share that follows another mask put in place of the earlier one",
}
_OF_KINDS = "Mean IoU; 1 where the mask is to be empty and is."


def by_turn(result) -> str:
  """Cards of bars: cIoU by the turn in which a mask was due; mean IoU after the gold
  answers and after the model's own; how near the masks come to the last target; in
  PRIST-X by what each mask is."""
  parts = [
    _card("The mask was due in", "cIoU.", _due(result.get("per_turn") or {})),
    _card(
      "After gold answers, after its own",
      "Mean IoU of the same targets. What is lost with the model’s own answers is the"
      " price of its earlier mistakes.",
      _histories(result.get("history_gap") or {}),
    ),
    _card(
      "On the way to the last target",
      "Mean IoU with the last target, of the masks made in each turn. Where the wish"
      " narrows, the targets that are due approach it too.",
      _drift((result.get("intent_drift") or {}).get("turns") or {}),
    ),
  ]
  state = result.get("state") or {}
  earlier = "Of targets that are about an earlier one, and beside them of the others."
  parts.append(
    _card("Where a mask follows from an earlier one", earlier, _state(state))
  )
  found = result.get("kinds") or {}
  for group, (title, names) in _GROUPS.items():
    parts.append(_card(title, _OF_KINDS, _kinds(found.get(group) or {}, names)))
  body = "".join(parts)
  if not body:
    return ""
  return section(
    "turns", "Turn by turn", f'<div class="pair">{body}</div>', "95 % intervals."
  )


def calibration(result) -> str:
  """Bars: what the masks have whose IoU the model predicts to be in each tenth."""
  found = result.get("calibration") or {}
  rows = [
    charts.Bar(
      f"predicted {part['low']:.1f} to {part['high']:.1f}",
      {"value": part["iou"]},
      f"{plural(part['n'], 'mask')}; {number(part['predicted'], 2)} on average",
      mark=part["predicted"],
    )
    for part in found.get("bins") or []
    if part["n"]
  ]
  if not rows:
    return ""
  error = (result["metrics"].get("ece") or {}).get("value")
  said = "" if error is None else f" Off by {number(error)} on average (ECE)."
  note = (
    "Bars: mean IoU of the masks by the IoU that the model predicts of them. Lines:"
    f" what it predicts on average; bars end there where it knows.{said} The lowest"
    " tenth holds what is predicted to be below 0 too."
  )
  title = "Does the model know how good its masks are?"
  return section(
    "calibration", title, f'<div class="card">{charts.bars(rows)}</div>', note
  )


def _card(title, note, rows):
  if not rows:
    return ""
  return (
    f'<div class="card"><h3>{title}</h3><p class="note">{note}</p>'
    f"{charts.bars(rows)}</div>"
  )


def _turn(turn):
  return f"turn {str(turn)[:_MOST_NAME]}"


def _due(turns):
  return [
    charts.Bar(_turn(turn), m["ciou"], plural(m["giou"]["n"], "target"))
    for turn, m in list(turns.items())[:_MOST_ROWS]
    if "ciou" in m and "giou" in m
  ]


def _kinds(found, names):
  return [
    charts.Bar(kind, m["giou"], f"{names[kind]}; {plural(m['giou']['n'], 'target')}")
    for kind, m in found.items()
    if kind in names and "giou" in m
  ]


def _state(found):
  """docs/state.md tells more of each."""
  known = dict(found.get("metrics") or {})
  if follows := found.get("swapped_follows"):
    known["swapped_follows"] = follows
  rows = []
  for name, m in list(known.items())[:_MOST_ROWS]:
    relation = name.removeprefix("ciou_").replace("_", " ")
    said = _STATE.get(name, f"cIoU; to the earlier mask it is: {relation}")
    rows.append(charts.Bar(name[:_MOST_NAME], m, text(f"{said}; {m['n']:,}", 200)))
  return rows


def _histories(turns):
  rows = []
  for turn, found in list(turns.items())[:_MOST_ROWS]:
    count = plural(found["own"]["n"], "target")
    rows.append(charts.Bar(f"{_turn(turn)}, gold answers", found["gold"], count))
    gap = found["gap"]["value"] or 0
    lost = f"{abs(gap):.3f} {'less' if gap > 0 else 'more'}" if gap else ""
    rows.append(charts.Bar(f"{_turn(turn)}, its own", found["own"], lost, main=True))
  return rows


def _drift(turns):
  """A turn may have masks of the model alone, or be due without one."""
  rows = []
  for turn, found in list(turns.items())[:_MOST_ROWS]:
    if due := found.get("gold"):
      rows.append(charts.Bar(f"{_turn(turn)}, due", due, plural(due["n"], "target")))
    if made := found.get("model"):
      count = plural(made["n"], "mask")
      rows.append(charts.Bar(f"{_turn(turn)}, the model’s", made, count, main=True))
  return rows
