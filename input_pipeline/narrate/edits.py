"""Requests that go on from the mask before, on photographs: `--edits` of `own`.

As `prepare/edits.py` for rendered scenes: the same again, also another thing, without
one, only a half or a labelled part, all of it, the other one of that name. Masks follow
by set algebra from the labels, so each is as exact as they are.
"""

import dataclasses

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.narrate.things import Thing
from input_pipeline.narrate.wordings import PLACES
from input_pipeline.records import SEG_TOKEN

MOST_EDITS = 3
LEAST_HALF = 0.1  # share of a thing that a half of it has to hold


@dataclasses.dataclass(frozen=True)
class Shown:
  """What the last mask shows: things, or a piece of one. name: of the mask."""

  name: str
  things: tuple[Thing, ...]
  mask_HW: np.ndarray
  is_piece: bool = False


def go_on(talk):
  """Adds up to MOST_EDITS requests to a `Talk`, none where its last mask is not that of
  one whole thing alone."""
  thing = next((t for t in talk.scene.targets if _ends_with(talk, t)), None)
  if thing is None:
    return
  now = Shown(talk.words.one(thing.name), (thing,), _mask(thing))
  for _ in range(talk.rng.randint(1, MOST_EDITS)):
    choices = _choices(talk, now)
    kind = talk.rng.choice(sorted(choices))
    fields, shown = talk.rng.choice(choices[kind])
    now = shown if isinstance(shown, Shown) else _whole(talk, shown)
    talk.ask(kind, **fields)
    talk.answer("mask", (now.name, mask_ops.encode_rle(now.mask_HW)))


def _ends_with(talk, thing):
  """Whether the last answer is the mask of that thing and no other."""
  alone = talk.turns[-1][1].count(SEG_TOKEN) == 1
  return alone and talk.targets[-1] == talk.target(thing)


def _mask(thing):
  return mask_ops.decode_rle(thing.region.rle).astype(bool)


def _choices(talk, now):
  """{kind of turn: [(its fields, what is shown then)]} of what may be asked next. Whole
  things are named alone: their masks are read when they are drawn."""
  found = {"edit_same": [({}, now)]}
  if now.is_piece:
    found["edit_whole"] = [({}, now.things)]
  elif len(now.things) == 1:
    found["edit_half"] = list(_halves(talk, now))
    found |= _others(talk, now.things[0])
    found |= _parts(talk, now)
  else:
    found["edit_without"] = [
      ({"the": talk.words.the(gone.name)}, (rest,))
      for gone, rest in (now.things, now.things[::-1])
    ]
  return {kind: some for kind, some in found.items() if some}


def _whole(talk, things):
  mask_HW = np.logical_or.reduce([_mask(t) for t in things])
  return Shown(
    talk.words.join([talk.words.one(t.name) for t in things]), things, mask_HW
  )


def _others(talk, thing):
  """Also another thing; the other one of two that share a name."""
  alike = [t for t in talk.scene.named(thing.name) if t is not thing]
  singles = [t for t in talk.scene.singles if t is not thing]
  other = alike if len(alike) == 1 and talk.scene.is_target(alike[0]) else []
  return {
    "edit_also": [({"the": talk.words.the(t.name)}, (thing, t)) for t in singles],
    "edit_other": [({"one": talk.words.one(t.name)}, (t,)) for t in other],
  }


def _halves(talk, now):
  """Each half of the box around the mask that holds enough of it."""
  words, (thing,) = talk.words, now.things
  rows, columns = (np.flatnonzero(now.mask_HW.any(axis)) for axis in (1, 0))
  middle = (rows[0] + rows[-1] + 1) // 2, (columns[0] + columns[-1] + 1) // 2
  inside = {
    "top": np.s_[: middle[0]], "bottom": np.s_[middle[0] :],
    "left": np.s_[:, : middle[1]], "right": np.s_[:, middle[1] :],
  }  # fmt: skip
  for place in PLACES:
    half_HW = np.zeros_like(now.mask_HW)
    half_HW[inside[place]] = now.mask_HW[inside[place]]
    if half_HW.sum() >= LEAST_HALF * now.mask_HW.sum():
      half = words.tables["halves"][place]
      name = words.half(thing.name, place)
      yield {"half": half}, Shown(name, now.things, half_HW, is_piece=True)


def _parts(talk, now):
  """Only a labelled part of the thing, or the thing without it."""
  words, (thing,) = talk.words, now.things
  parts = talk.scene.parts_of(thing)
  names = [t.name for t in parts]
  found = {"ask_part": [], "edit_without_its": []}
  for part in parts:
    if names.count(part.name) > 1 or not talk.scene.is_target(part):
      continue
    one, mask_HW = words.one(part.name), _mask(part) & now.mask_HW
    rest_HW = now.mask_HW & ~mask_HW
    if not mask_HW.any() or not rest_HW.any():
      continue
    only = Shown(one, now.things, mask_HW, is_piece=True)
    found["ask_part"].append(({"one": one}, only))
    rest = Shown(words.lacking(thing.name, one), now.things, rest_HW, is_piece=True)
    found["edit_without_its"].append(({"one": one}, rest))
  return found
