"""PRIST-X of rendered scenes, whose trees are exact: `miras data construct --scenes`.

A conversation narrows a group to one object as those of `miras data synth` do, and goes
on from there: all of the group, the object, a part of it, another one with it or
without it, the same again, or a second one that is not there. Short talks about the
scenes to train on (`naming.py`) may follow, from which words are learnt.
"""

import json
import os
import pathlib

import numpy as np
import tqdm
from PIL import Image

from input_pipeline import mask_ops, prist_x
from input_pipeline.prepare import wording
from input_pipeline.prepare.dialogue import chain
from input_pipeline.prepare.naming import sample_namings
from input_pipeline.prepare.scene import PARTS, render, sample_scene
from miras_jax.errors import UserError

META = "meta.json"  # written last
RECIPE = 2
EVAL_SHARE = 0.1  # of the scenes, for val and again for test
PER_SCENE = 3
MOST_EDITS = 3  # after the object was found
JPEG_QUALITY = 92
_LEAST = 3  # scenes: one for each split
# fmt: off
_ALL = ("Please mark them all.", "Show me all of these.", "Outline all of them.")
_SHOWN = ("Here they are: [SEG].", "All of them: [SEG].")
_SAY = {
  "part": (("Now only the {x} of it.", "I just want its {x}."), "The {x}: [SEG]."),
  "add": (("Add the {x}, too.", "Take the {x} with it."), "Both together: [SEG]."),
  "remove": (("Now without the {x}.", "Leave out the {x}."), "What is left: [SEG]."),
  "same": (("Show that once more.", "The same again, please."), "Again: [SEG]."),
  "other": (("No, the {x} instead.", "I meant the {x}."), "The {x}: [SEG]."),
  "none": (("Is there a second {x} like it?", "Mark the other {x} of that kind."),
           "There is none: [SEG]."),
}
# fmt: on
# What an edited mask is called: by words that the conversation has said.
_NAMES = {
  "part": "{x} of the {before}",
  "add": "{before} and {x}",
  "remove": "{before} without the {x}",
  "same": "{before}",
  "other": "{x}",
}


def generate(out, scenes: int, seed: int, short: int = 0) -> dict[str, int]:
  """Writes images/ and trees/<split>.jsonl below `out` -> conversations by split.

  short: of so many short talks about each scene to train on; all else is as without.
  Equal arguments give equal bytes. Raises UserError where `out` holds other data.
  """
  out = pathlib.Path(out)
  recipe = {"scenes": scenes, "seed": seed, "recipe": RECIPE}
  recipe |= {"short": short} if short else {}
  if scenes < _LEAST:
    raise UserError(f"--scenes={scenes}: want at least {_LEAST}, one for each split")
  if before := _recipe_of(out):
    if before.get("recipe") != recipe:
      raise UserError(f"{out}: holds another data set; name a new folder with --out")
    return before["conversations"]
  lines = []
  for index in tqdm.trange(scenes, desc="render", unit="scene", disable=None):
    rng = np.random.default_rng([seed, index])
    scene = sample_scene(rng)
    if line := _scene_line(out, scene, rng, index):
      named = _named(scene, np.random.default_rng([seed, index, 1]), short)
      lines.append((line, named))
  if len(lines) < _LEAST:
    raise UserError(f"--scenes={scenes}: only {len(lines)} of them can be talked about")
  held_out = max(1, round(EVAL_SHARE * len(lines)))
  for line, named in lines[2 * held_out :]:
    line["conversations"] += named
  lines = [line for line, _ in lines]
  splits = {
    "val": lines[:held_out],
    "test": lines[held_out : 2 * held_out],
    "train": lines[2 * held_out :],
  }
  for split, some in splits.items():
    text = "".join(json.dumps(line) + "\n" for line in some)
    _write(out / prist_x.FOLDER / f"{split}.jsonl", text.encode())
  counts = {s: sum(len(x["conversations"]) for x in some) for s, some in splits.items()}
  meta = {"made_by": "miras data construct --scenes", "recipe": recipe}
  text = json.dumps(meta | {"conversations": counts}, indent=1) + "\n"
  _write(out / META, text.encode())
  return counts


def _recipe_of(out):
  try:
    found = json.loads((out / META).read_text(encoding="utf-8"))
  except FileNotFoundError:
    return None
  except ValueError:
    found = None
  if not isinstance(found, dict):
    raise UserError(f"{out / META}: damaged; delete the folder {out} and start again")
  return found


def _write(path, data):
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(path.name + ".tmp")
  aside.write_bytes(data)
  os.replace(aside, path)


def _scene_line(out, scene, rng, index):
  """Writes the picture of a scene, returns its line; None where no path leads to one of
  its objects."""
  name = f"scene_{index:06d}.jpg"
  picture = Image.fromarray(render(scene, rng))
  grown, talks = _Tree(scene), []
  for k in rng.permutation(len(scene.objects)):
    facts = chain(scene.objects, scene.objects[k], rng)
    if facts and len(talks) < PER_SCENE:
      place = grown.add(int(k), facts)
      talks.append(_Talk(scene, rng).write(int(k), facts) | {"path": place})
  if not talks:
    return None
  path = out / "images" / name
  path.parent.mkdir(parents=True, exist_ok=True)
  picture.save(path, quality=JPEG_QUALITY)
  return prist_x.line(
    name, scene.height, scene.width, _things(scene), grown.data(), talks
  )


def _things(scene):
  """Objects o0, o1, ... and their parts o0.roof, ..."""
  found = []
  for k, item in enumerate(scene.objects):
    found.append(_thing(scene, f"o{k}", item.label, "", item.polygons))
    for part in PARTS.get(item.shape, ()):
      polygons = item.parts[part]
      found.append(_thing(scene, f"o{k}.{part}", part, f"o{k}", polygons))
  return found


def _thing(scene, thing_id, name, part_of, polygons):
  mask_HW = mask_ops.rasterise_polygons(polygons, scene.height, scene.width)
  rle = mask_ops.encode_rle(mask_HW)
  return {"id": thing_id, "name": name, "part_of": part_of, "mask": rle}


def _named(scene, rng, count):
  """Short talks, which belong to no path of the tree."""
  found = []
  for talk in sample_namings(scene, rng, count):
    masks = [
      prist_x.mask(_ids_of(scene, t.polygons), name=t.label) for t in talk.targets
    ]
    turns = [turn for asked in talk.rounds for turn in _round(*asked)]
    found.append({"turns": turns, "masks": masks, "path": None})
  return found


def _ids_of(scene, polygons):
  """Ids of the objects that these polygons are; where they are none, of a part."""
  wanted = {id(polygon) for polygon in polygons}

  def covered(some):
    return {id(polygon) for polygon in some} <= wanted

  numbered = list(enumerate(scene.objects))
  return [f"o{k}" for k, item in numbered if covered(item.polygons)] or [
    f"o{k}.{part}"
    for k, item in numbered
    for part in PARTS.get(item.shape, ())
    if covered(item.parts[part])
  ]


def _round(question, answer):
  return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


class _Tree:
  """The tree of a scene as chains of facts are added to it."""

  def __init__(self, scene):
    self._objects, self._nodes, self._paths = scene.objects, {}, []

  def add(self, k, facts) -> int:
    """Index of the path to an object by these facts."""
    parent, left, ids = "root", self._objects, []
    for level, fact in enumerate(facts, 1):
      left = fact.pick(left)
      node = self._nodes.setdefault(
        (parent, fact.kind, fact.word),
        {
          "id": f"n{len(self._nodes) + 1}",
          "parent": parent,
          "level": level,
          "inference": f"It is {wording.noun(fact, plural=False)}.",
          "elements": [f"o{i}" for i, o in enumerate(self._objects) if o in left],
          "test": fact.kind,
          "of": fact.word,
        },
      )
      parent = node["id"]
      ids.append(parent)
    self._paths.append({"nodes": ids, "focus": f"o{k}"})
    return len(self._paths) - 1

  def data(self):
    count = wording.NUMBERS[len(self._objects)]
    return {
      "root": f"The picture shows {count} things.",
      "nodes": list(self._nodes.values()),
      "overlaps": [],
      "paths": self._paths,
    }


class _Talk:
  """Writes one conversation and the things of each of its masks."""

  def __init__(self, scene, rng):
    self._scene, self._rng = scene, rng
    self._turns, self._masks = [], []

  def write(self, k, facts):
    left = self._scene.objects
    for place, fact in enumerate(facts):
      left = fact.pick(left)
      self._ask(fact, left, place)
      if place == 0:
        self._round(self._draw(_ALL), self._draw(_SHOWN))
        ids = [f"o{i}" for i, o in enumerate(self._scene.objects) if o in left]
        self._masks.append(prist_x.mask(ids, name=wording.noun(fact, plural=True)))
    self._round(self._draw(wording.REQUEST), self._draw(wording.MASK))
    name = wording.phrase(facts)
    self._masks.append(prist_x.mask([f"o{k}"], "remove", 0, name))
    self._edit(k)
    return {"turns": self._turns, "masks": self._masks}

  def _edit(self, k):
    """Up to MOST_EDITS requests that start from the masks before."""
    for _ in range(int(self._rng.integers(1, MOST_EDITS + 1))):
      before, name = self._masks[-1]["things"], self._masks[-1]["name"]
      choices = list(self._choices(k, before))
      kind, words, things = choices[self._rng.integers(len(choices))]
      questions, answer = _SAY[kind]
      self._round(self._draw(questions).format(x=words), answer.format(x=words))
      if kind == "none":
        self._masks.append(prist_x.mask([]))
        return  # there is nothing to go on from
      name = _NAMES[kind].format(x=words, before=name)
      self._masks.append(prist_x.mask(things, kind, len(self._masks) - 1, name))

  def _choices(self, k, before):
    """(kind, what is named, things after it) of what may be asked for next."""
    objects = self._scene.objects
    label = objects[k].label
    yield "same", "", before
    if before == [f"o{k}"]:
      yield "none", label, []
      for part in PARTS.get(objects[k].shape, ()):
        yield "part", part, [f"o{k}.{part}"]
    if "." in before[0]:
      return
    for i, item in enumerate(objects):
      if f"o{i}" not in before:
        if len(before) == 1:
          yield "other", item.label, [f"o{i}"]
          yield "add", item.label, sorted([*before, f"o{i}"])
      elif len(before) > 1:
        yield "remove", item.label, [x for x in before if x != f"o{i}"]

  def _ask(self, fact, left, place):
    table = wording.NEXT_ASK if place else wording.FIRST_ASK
    table = wording.ORDER_ASK if fact.kind == "order" else table
    noun = wording.noun(fact, plural=True)
    question = self._draw(table).format(noun=noun, word=fact.word)
    self._round(question, self._answer(fact, left))

  def _answer(self, fact, left):
    if fact.kind == "order":
      return self._draw(wording.ORDER_ANSWER).format(word=fact.word)
    table = wording.ONE_ANSWER if len(left) == 1 else wording.MANY_ANSWER
    noun = wording.noun(fact, plural=len(left) != 1)
    return self._draw(table).format(n=wording.NUMBERS[len(left)], noun=noun)

  def _round(self, question, answer):
    self._turns += _round(question, answer)

  def _draw(self, table):
    return str(table[self._rng.integers(len(table))])
