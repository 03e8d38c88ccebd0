"""Targets by what makes them hard: turns before them, distractors, their size, and in
PRIST-X which edit they are and of how many things.

A distractor is another labelled thing of the picture whose label shares a word with the
target's name, so that a word of the conversation fits it too.
"""

import functools
import json
import pathlib

import numpy as np

from input_pipeline import mask_ops, safe_files
from miras_jax.evaluation import kinds, metrics

SIZES = (0.01, 0.03, 0.1)  # edges of the share of the picture that a target takes
COMMON = {"thing", "things", "of", "the", "a", "an"}  # fit everything


def columns(examples, masks_dir) -> dict[str, list]:
  """{group: its value for each target, in the order of the examples} as texts."""
  out = {"turns": [], "distractors": [], "target size": []}
  for example in examples:
    talk = example.talks[0]
    for target, rle in zip(talk.targets, example.true, strict=True):
      out["turns"].append(str(target.turn + 1))
      out["distractors"].append(_distractors(masks_dir, example.image, target.name))
      out["target size"].append(_size(rle))
  return out | kinds.columns([example.talks[0] for example in examples])


def _size(rle):
  share = mask_ops.rle_area(rle) / (rle["size"][0] * rle["size"][1])
  if not share:
    return "empty"
  edges = [0, *SIZES, 1]
  place = int(np.searchsorted(SIZES, share, side="right"))
  return f"{100 * edges[place]:g} to {100 * edges[place + 1]:g} %"


def _distractors(masks_dir, image, name):
  things = _things(str(masks_dir), image)
  if things is None or not name:
    return ""
  words = _words(name)
  own = frozenset().union(*(shapes for label, shapes in things if label == name))
  others = {s for label, s in things if not s & own and _words(label) & words}
  # What holds another one whole is a group of things, or the thing of a part.
  return str(sum(not any(other < s for other in others) for s in others))


def _words(name):
  return {word.rstrip("s") for word in name.casefold().split()} - COMMON


@functools.lru_cache(maxsize=4096)
def _things(masks_dir, image):
  """[(label, its outlines)] of a labelme file; None where there is none to read."""
  path = pathlib.Path(image).with_suffix(".json")
  try:
    file = safe_files.resolve_inside(masks_dir, str(path))
    shapes = json.loads(safe_files.read_bytes(file, safe_files.MAX_MASK_BYTES))[
      "shapes"
    ]
    things = {}
    for shape in shapes:
      key = shape["label"], shape.get("group_id")
      things.setdefault(key, set()).add(json.dumps(shape["points"]))
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None
  return [(label, frozenset(outlines)) for (label, _), outlines in things.items()]


def of_runs(reads, masks_dir, resamples) -> dict:
  """{group: `metrics.by_value` of it}, the targets of all runs of one arm together."""
  tables = [read.table for read in reads]
  table = {k: np.concatenate([t[k] for t in tables]) for k in tables[0]}
  found = [columns(read.examples, masks_dir) for read in reads]
  out = {}
  for group in found[0]:
    values = [value for one in found for value in one[group]]
    if not any(values):
      continue  # other data than it is a group of
    order = sorted(set(values) - {""}, key=_order)
    out[group] = metrics.by_value(table, values, order, resamples=resamples)
    for row in (row for rows in out[group].values() for row in rows.values()):
      row["n"] //= len(reads)  # a target is one, however many seeds met it
  return out


def _order(value):
  first = value.split()[0]
  return float(first) if first.replace(".", "").isdigit() else -1.0
