"""Conversations as cards: a large picture a turn with a mask, the texts, controls."""

import numpy as np

from input_pipeline import mask_ops
from miras_jax.evaluation.report import outcomes
from miras_jax.evaluation.report.markup import number, plural, text
from miras_jax.evaluation.report.pictures import Layer

MOST_TURNS, MOST_LETTERS = 16, 400  # of a card; of a text
_MOST_NAME = 80
_SHARED = ("image", "target", "prediction")  # panels that the large pictures show


def card(album, example, line, row) -> str:
  """An `<article>`. example: drawing.Example of `line`; row: its outcomes.Row."""
  image_HWC = _panels(example)["image"].image_HWC
  photo = album.add(image_HWC, row.number)
  large = [
    _figure(album, photo, caption, layers)
    for caption, layers in _pictures(example, line, row)
  ] or [_figure(album, photo, "no mask was due, and none was made", [])]
  tall = len(large) == 1 and image_HWC.shape[0] > 0.9 * image_HWC.shape[1]
  small = [
    _figure(album, photo, _control_title(panel), _masks(panel.masks))
    for panel in example.panels
    if panel.title not in _SHARED
  ]
  controls = ""
  if small:
    controls = (
      "<details><summary>The mask under each control</summary>"
      f'<div class="small">{"".join(small)}</div></details>'
    )
  return (
    f'<article class="card talk{" tall" if tall else ""}" id="card{row.number}">'
    f'{_header(row)}<div class="sides"><div class="large">{"".join(large)}</div>'
    f"{chat(line)}</div>{controls}</article>"
  )


def failure(album, example, line, row, outcome) -> str:
  """A `<figure>` of one mask that failed, its conversation folded below."""
  photo = album.add(_panels(example)["image"].image_HWC, row.number)
  if outcome.target is None:
    turns = [i for i, turn in enumerate(line["turns"]) if turn["num_seg"]]
    said, layers = f"{plural(outcomes.surplus(line), '[SEG]')} too many", []
    for _, some in _pictures(example, line, row):
      layers += some
    said += f" (turns with one: {', '.join(str(t + 1) for t in turns)})"
  else:
    k = outcome.target
    said, layers = _target_title(row, k), _target_layers(example, k, 0)
    if outcome.instead is not None:
      said += f"; took: {outcome.instead or 'a target without a name'}"
    elif outcome.kind == outcomes.OBJECT:
      said += "; on no annotated target"
  picture = album.picture(photo, layers, said)
  return (
    f'<figure class="card">{picture}<figcaption>{text(said, 300)} {_link(row)}'
    f"</figcaption><details><summary>conversation</summary>{chat(line)}</details>"
    "</figure>"
  )


def _header(row):
  score = "no target" if row.score is None else f"IoU {number(row.score, 2)}"
  return f"<header><b>{score}</b> {text(row.id, _MOST_NAME)} {_link(row)}</header>"


def _link(row):
  return f'<a href="#line{row.number}">line {row.number}</a>'


def _panels(example):
  return {panel.title: panel for panel in example.panels}


def _pictures(example, line, row):
  """(caption, layers) of each turn that has a target or a mask."""
  by_turn = {}
  for k, target in enumerate(line["targets"]):
    by_turn.setdefault(target["turn"], []).append(k)
  surplus = _surplus_masks(line)
  for turn in sorted(by_turn.keys() | surplus.keys()):
    places = by_turn.get(turn, [])
    layers = [
      layer
      for i, k in enumerate(places)
      for layer in _target_layers(example, k, i, len(places) > 1)
    ]
    titles = [_target_title(row, k) for k in places]
    for mask_HW in surplus.get(turn, []):
      layers.append(Layer(mask_HW, len(layers)))
      empty = "" if mask_HW.any() else ", and is empty"
      titles.append(f"a mask that was not due{empty}")
    yield f"Turn {turn + 1}: {', '.join(titles)}", layers


def _target_title(row, k):
  name = (row.names[k] or "an empty target")[:_MOST_NAME]
  title = f"{name}, IoU {number(row.all_ious[k], 2)}"
  if row.outcomes and row.outcomes[k].kind == outcomes.MISSING:
    title += " (no mask)"
  return title


def _target_layers(example, k, place, numbered=False):
  """The model's mask of target k and, dashed, the target."""
  panels = _panels(example)
  name = str(place + 1) if numbered else ""
  layers = []
  for title, dashed in (("prediction", False), ("target", True)):
    masks = panels[title].masks if title in panels else ()
    if k < len(masks):
      missing = dashed and not np.any(panels["prediction"].masks[k])
      written = name if not dashed or missing else ""
      layers.append(Layer(masks[k], place, dashed, written))
  return layers


def _surplus_masks(line):
  """{turn: masks} of the [SEG] that were not due, where the line keeps them."""
  due = {(target["turn"], target["index"]) for target in line["targets"]}
  masks = {}
  for kept in line.get("turn_masks") or ():
    if (kept["turn"], kept["index"]) not in due and len(masks) < MOST_TURNS:
      masks.setdefault(kept["turn"], []).append(mask_ops.decode_rle(kept["mask"]))
  return masks


def _control_title(panel):
  return panel.title + ("" if any(np.any(m) for m in panel.masks) else " (no mask)")


def _masks(masks):
  return [
    Layer(mask, i, number=str(i + 1) if len(masks) > 1 else "")
    for i, mask in enumerate(masks)
  ]


def _figure(album, photo, caption, layers):
  picture = album.picture(photo, layers, caption)
  return (
    f'<figure tabindex="0">{picture}<figcaption>{text(caption, 300)}</figcaption>'
    "</figure>"
  )


def chat(line) -> str:
  """The texts of a line: the last turns of it, each text cut where it is long."""
  parts, turns = [], line["turns"]
  if len(turns) > MOST_TURNS:
    parts.append(
      f'<p class="note">{plural(len(turns) - MOST_TURNS, "turn")} before</p>'
    )
  for turn in turns[-MOST_TURNS:]:
    answer, gold = turn["answer"], turn["gold"]
    parts.append(_said("user", "user", turn["user"]))
    parts.append(_said("model", "model", answer))
    if gold and gold.strip() != answer.strip():
      parts.append(_said("gold", "gold answer", gold))
  return f'<div class="chat">{"".join(parts)}</div>'


def _said(kind, who, words):
  return (
    f'<p class="{kind}" dir="auto"><span class="hidden">{who}: </span>'
    f"{text(words, MOST_LETTERS)}</p>"
  )
