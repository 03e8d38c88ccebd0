"""The numbers of the page: headline, controls, every metric, provenance."""

from miras_jax.evaluation.report import charts
from miras_jax.evaluation.report.markup import interval, number, plural, section, text
from miras_jax.evaluation.report.wording import CONTROLS, HEADLINE, meaning

_MOST_NAME, _MOST_ROWS = 80, 300
_LINKS = {
  "depends": "controls",
  "outcomes": "IoU",
  "conversations": "conversations",
  "failures": "failures",
  "training": "training",
  "time": "time",
  "turns": "turns",
  "calibration": "calibration",
  "metrics": "all metrics",
  "every": "every prediction",
  "provenance": "provenance",
}


def header(result, title, sections) -> str:
  """Title, the one number with its interval in a sentence, tiles, links to sections."""
  data, found = result.get("data") or {}, result["metrics"]
  head = found.get("ciou") or next(iter(found.values()))
  range_ = f" (95 % interval {interval(head)})" if interval(head) else ""
  limit = (result.get("options") or {}).get("limit")
  cut = f" (the first, of {data['records']:,})" if limit and "records" in data else ""
  over = [
    plural(data[key], key.removesuffix("s")) + (cut if key == "conversations" else "")
    for key in ("targets", "conversations", "images")
    if isinstance(data.get(key), int)
  ]
  sentence = f"cIoU {number(head['value'])}{range_}"
  if over:
    sentence += f", over {' of '.join(over[:2])}" + "".join(
      f" about {images}" for images in over[2:]
    )
  where = [
    f"checkpoint {result.get('checkpoint', '')}",
    *([f"step {result['step']:,}"] if isinstance(result.get("step"), int) else []),
    *([f"data {data['dir']}"] if data.get("dir") else []),
    *([f"history: {data['history']} answers"] if data.get("history") else []),
  ]
  warned = "".join(f'<p class="warning">{text(x)}</p>' for x in warnings(data))
  links = "".join(f'<a href="#{k}">{v}</a>' for k, v in _LINKS.items() if sections[k])
  return (
    f'<h1>{text(title, 200)}</h1><p class="lead">{text(sentence)}.</p>'
    f'<p class="sub">{text("; ".join(where), 600)}</p>{warned}'
    f'<nav>{links}</nav><div class="tiles">{_tiles(found)}</div>'
  )


def warnings(data) -> list[str]:
  """What was left out or cut: it is not to be looked for."""
  said = {
    "failed": "left out, since they could not be scored",
    "defective": "left out, since their records are defective",
    "questions_too_long": "questions too long for the model: answered by nothing",
    "questions_shortened": "questions whose oldest turns were left out",
    "more_masks_than_room": "conversations with more [SEG] than there is room",
  }
  counted = {k: len(v) if isinstance(v := data.get(k, 0), list) else v for k in said}
  return [f"{counted[k]:,} {words}." for k, words in said.items() if counted[k]]


def _tiles(found):
  return "".join(
    f'<div class="card tile"><span>{text(k)}</span><b>{number(found[k]["value"])}</b>'
    f"<span>{interval(found[k])}</span></div>"
    for k in HEADLINE
    if k in found
  )


def depends(result) -> str:
  """Bars: cIoU of the model, read teacher-forced, and under each control."""
  controls = result.get("controls") or {}
  main = result["metrics"].get("ciou")
  if not main or not controls:
    return ""
  rows = [charts.Bar("the model", main, _history(result), main=True)]
  forced = (result.get("teacher_forced") or {}).get("ciou")
  if forced:
    rows.append(charts.Bar("teacher-forced", forced, "the gold dialogue, in one pass"))
  rows += [
    charts.Bar(
      name.replace("_", " ")[:_MOST_NAME], table[measure], _remark(name, result)
    )
    for name, table in list(controls.items())[:_MOST_ROWS]
    if (measure := _measure(name, result)) in table
  ]
  note = (
    "cIoU against the original targets, same checkpoint; lines are 95 % intervals,"
    " bootstrap over images. Each control takes one thing away: where the mask depends"
    " on it, cIoU falls."
  )
  if any(_measure(name, result) != "ciou" for name in controls):
    note += (
      " Where nothing is to be found there is no cIoU: more empty masks are better."
    )
  title = "Does the mask follow the conversation and the image?"
  return section("depends", title, f'<div class="card">{charts.bars(rows)}</div>', note)


def _measure(name, result):
  """The metric by which a control is read; earlier results do not say."""
  return (result.get("control_measures") or {}).get(name, "ciou")


def _remark(name, result):
  """What the control is, of how many conversations, and how far the mask falls under
  it: of the same targets, IoU by IoU, where the result says so; else whether the
  intervals of cIoU are apart."""
  main, control = result["metrics"]["ciou"], result["controls"][name].get("ciou")
  beside = (result.get("dependence") or {}).get(name) or {}
  said = [text(CONTROLS[name])] if name in CONTROLS else []
  if isinstance(count := beside.get("conversations"), int):
    said = [", ".join([*said, plural(count, "conversation")])]
  if _measure(name, result) != "ciou":
    return ": ".join([*said, *_kept(beside.get("iou"))])
  paired = beside.get("change")
  if paired and paired["value"] is not None:
    change, of = paired, "mean IoU"
    apart = paired["high"] is not None and paired["high"] < 0
  elif None in (control["value"], main["value"]):
    return ": ".join(said)
  else:
    change, of = {"value": control["value"] - main["value"]}, "cIoU"
    apart = None not in (control["high"], main["low"]) and control["high"] < main["low"]
  fall = f"{of} falls by {-change['value']:.3f}"
  verdict = fall if apart else f"no clear fall of {of} ({change['value']:+.3f})"
  return ": ".join([*said, f"<strong>{verdict}</strong>"])


def _kept(iou):
  """What the mask still covers of the original target, which was not asked for."""
  if not iou or iou["value"] is None:
    return []
  return [f"<strong>mean IoU {iou['value']:.3f} with what was not asked for</strong>"]


def _history(result):
  gold = (result.get("data") or {}).get("history") == "gold"
  return (
    "the gold answers are the history" if gold else "its own answers are the history"
  )


def metrics(result) -> str:
  """Every metric with interval; the teacher-forced value beside it."""
  forced = result.get("teacher_forced") or {}
  rows = []
  for name, m in list(result["metrics"].items())[:_MOST_ROWS]:
    beside = number(forced[name]["value"]) if name in forced else ""
    rows.append(
      f'<tr><td class="name"><code>{text(name, _MOST_NAME)}</code>'
      f'<small>{text(meaning(name))}</small></td><td class="num">{number(m["value"])}'
      f'<small>{interval(m)}</small></td><td class="num">{m["n"]:,}</td>'
      f'<td class="num">{beside}</td></tr>'
    )
  said = _history(result)
  note = (
    f"{said[0].upper()}{said[1:]}, and a target without a [SEG] counts as an empty"
    " mask. Intervals: 95 %, bootstrap over images. Forced: the gold dialogue is read"
    " in one pass."
  )
  body = (
    '<div class="card"><table><tr><th>metric</th><th>value</th><th>n</th>'
    f"<th>forced</th></tr>{''.join(rows)}</table></div>"
  )
  return section("metrics", "All metrics", body, note)


def provenance(result) -> str:
  """Where the numbers come from."""
  data, made = result.get("data") or {}, result.get("provenance") or {}
  versions = made.get("versions") or {}
  facts = {
    "checkpoint": result.get("checkpoint"),
    "step": result.get("step"),
    "data": f"{data.get('dir', '')}, split {data.get('split', '')}",
    "date": made.get("date"),
    "commit": made.get("commit"),
    "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
    "device": made.get("device"),
    "seed": made.get("seed"),
    "seed of the training": (result.get("config") or {}).get("seed"),
  }
  rows = "".join(
    f"<dt>{name}</dt><dd>{text('unknown' if fact in (None, '') else fact, 600)}</dd>"
    for name, fact in facts.items()
  )
  shown = {k: v for k, v in data.items() if k not in ("dir", "split", "history")}
  options = _listed(result.get("options") or {}) or "unknown"
  return section(
    "provenance",
    "Provenance",
    f'<dl class="card facts">{rows}<dt>options</dt><dd>{text(options, 3000)}</dd>'
    f"<dt>counts</dt><dd>{text(_listed(shown), 3000)}</dd></dl>",
  )


def _listed(facts) -> str:
  """`conversations 60, failed 0, altered (attribute lie (applies 57, asked 57))`."""
  told = (
    f"{str(k).replace('_', ' ')}"
    + (f" ({_listed(v)})" if v and isinstance(v, dict) else f" {_plain(v)}")
    for k, v in list(facts.items())[:_MOST_ROWS]
  )
  return ", ".join(told)


def _plain(fact):
  if isinstance(fact, list | dict):
    return len(fact)
  if isinstance(fact, bool):
    return "yes" if fact else "no"
  return "none" if fact is None else fact
