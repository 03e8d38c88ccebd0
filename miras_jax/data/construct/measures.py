"""What masks say of the things of a photograph: tests with a verdict on each thing.

A verdict is yes, no, or None where one may argue (`input_pipeline.narrate.facts`).
Things are named by ids, "a3" for the region of number 3. A part goes with what it is a
part of: whatever narrows a group keeps or drops both, until its parts are asked for.
"""

import dataclasses
import math
from collections.abc import Iterable

from input_pipeline.annotations import canvas
from input_pipeline.narrate import facts
from input_pipeline.narrate.things import Scene, Thing
from input_pipeline.narrate.wordings import COLOURS, PLACES

MOST_THINGS = 24  # the largest ones, that are measured
MOST_PARTS = 24  # of them, likewise
MOST_OTHERS = 12  # likewise, that relations lead to
NONE = "none"
RELATIONS = ("touches", "above", "below", "larger", "smaller")
PART = "part"  # of what its `of` names, at any level
EXTREMES = (
  "leftmost", "rightmost", "highest", "lowest", "largest", "smallest",
)  # fmt: skip
KINDS = (NONE, *PLACES, "colour", *RELATIONS, PART, *EXTREMES)
# Which check a contradicted test belongs to.
CHECK_OF = (
  dict.fromkeys((*PLACES, "leftmost", "rightmost", "highest", "lowest"), "side")
  | dict.fromkeys(("larger", "smaller", "largest", "smallest"), "size")
  | dict.fromkeys(("touches", "above", "below", "colour", PART), "relation")
)


def thing_id(thing: Thing) -> str:
  return f"a{thing.number}"


class Measures:
  """Things by id and what is true of them. whole: none was left out as too many."""

  def __init__(self, scene: Scene):
    self.scene = scene
    usable = sorted((t for t in scene.things if t.spoken), key=lambda t: -t.area)
    kept = [t for t in usable if t.region.part_of is None][:MOST_THINGS]
    self.whole = len(kept) == sum(t.region.part_of is None for t in scene.things)
    wholes = {t.number for t in kept}
    parts = [t for t in usable if not wholes.isdisjoint(_wholes_of(scene, t))]
    kept += map(_called, parts[:MOST_PARTS])
    self.things = {thing_id(t): t for t in sorted(kept, key=lambda thing: thing.number)}
    above = {i: [f"a{k}" for k in _wholes_of(scene, t)] for i, t in self.things.items()}
    self._above = {i: [j for j in up if j in self.things] for i, up in above.items()}
    names = [_called(t).name.casefold() for t in scene.things]
    self.alone = {
      i for i, t in self.things.items() if names.count(t.name.casefold()) == 1
    }
    self._known = {}

  def above(self, thing: str) -> list[str]:
    """What a thing is a part of, the nearest first; [] where that is nothing."""
    return self._above[thing]

  def inside(self, thing: str) -> set[str]:
    """The parts of a thing, and theirs."""
    return {i for i, up in self._above.items() if thing in up}

  def tops(self, group: Iterable[str]) -> set[str]:
    """Those of a group that are a part of nothing in it: what people count."""
    group = set(group)
    return {i for i in group if group.isdisjoint(self._above[i])}

  def top(self, thing: str, group: Iterable[str]) -> str:
    """The one of `tops` of a group that a thing is or is a part of."""
    found = [i for i in self._above[thing] if i in group]
    return found[-1] if found else thing

  def targets(self) -> list[str]:
    """Ids of what a mask may be asked of."""
    return [i for i, t in self.things.items() if self.scene.is_target(t)]

  def others(self) -> list[str]:
    """Ids that a relation may lead to: their name says which thing is meant."""
    # Of equal areas the first: a set has another order in every process.
    alone = [i for i in self.things if i in self.alone and not self._above[i]]
    alone.sort(key=lambda i: -self.things[i].area)
    return alone[:MOST_OTHERS]

  def verdict(self, kind: str, of: str, thing: str) -> bool | None:
    """Of a test that is no extreme; None also where it cannot be made."""
    key = kind, of, thing
    if key not in self._known:
      self._known[key] = self._verdict(*key)
    return self._known[key]

  def verdicts(self, kind: str, of: str, group: Iterable[str]) -> dict:
    """Those of a group, where a part goes with what it is a part of there; but for
    what the test is of, and its parts."""
    if kind == PART:
      return {i: of in self._above[i] for i in group if i != of}
    return {
      i: self.verdict(kind, of, self.top(i, group))
      for i in group
      if of not in (i, *self._above[i])
    }

  def winner(self, kind: str, group: Iterable[str]) -> str | None:
    """The thing of a group that is an extreme of it by a clear margin; of things that
    are there with their parts, the parts do not count."""
    group = sorted(self.tops(group))
    things = [self.things[i] for i in group]
    values, margin = {
      "leftmost": ([t.x for t in things], facts.APART),
      "rightmost": ([-t.x for t in things], facts.APART),
      "highest": ([t.y for t in things], facts.APART),
      "lowest": ([-t.y for t in things], facts.APART),
      "largest": ([-math.log(t.area) for t in things], math.log(facts.LARGER)),
      "smallest": ([math.log(t.area) for t in things], math.log(facts.LARGER)),
    }[kind]
    index = facts.clearly_first(values, margin)
    return None if index is None else group[index]

  def tests(self) -> list[dict]:
    """Every test that is true of something, for a prompt; without extremes."""
    found = []
    kinds = [(kind, "") for kind in PLACES] + [("colour", c) for c in COLOURS]
    kinds += [(kind, of) for of in self.others() for kind in RELATIONS]
    kinds += [(PART, of) for of in self.things if self.inside(of)]
    for kind, of in kinds:
      verdicts = self.verdicts(kind, of, self.things)
      yes = [i for i, v in verdicts.items() if v]
      if yes:
        unsure = [i for i, v in verdicts.items() if v is None]
        found.append({"test": kind, "of": of, "yes": yes, "unsure": unsure})
    return found

  def table(self) -> list[dict]:
    """The things for a prompt; places and areas are shares of the picture."""
    return [
      {
        "id": i,
        "name": t.name,
        "area": float(f"{t.area:.3g}"),
        "x": round(t.x, 3),
        "y": round(t.y, 3),
        "box": [round(v, 3) for v in t.box],
      }
      | ({"part_of": self._above[i][0]} if self._above[i] else {})
      for i, t in self.things.items()
    ]

  def _verdict(self, kind, of, thing):
    scene, thing = self.scene, self.things[thing]
    if kind in PLACES:
      inside = facts.in_half(scene, kind, [thing])
      return None if inside is None else bool(inside)
    if kind == "colour":
      return thing.colours.get(of)
    if of not in self.things or self.things[of] is thing:
      return None
    other = self.things[of]
    if kind in ("larger", "smaller"):
      ratio = thing.area / other.area if kind == "larger" else other.area / thing.area
      return (
        True if ratio >= facts.LARGER else False if ratio <= 1 / facts.LARGER else None
      )
    test = {"touches": facts.touches, "above": facts.is_above, "below": facts.is_below}
    return test[kind](scene, thing, other)


def _wholes_of(scene, thing):
  """Numbers of the regions that a thing is a part of, the nearest first."""
  found, number = [], thing.region.part_of
  while number is not None and len(found) < canvas.MAX_LEVELS:
    found.append(number)
    number = scene.photo.regions[number].part_of
  return found


def _called(thing):
  """A part "car:wheel", as lists of parts have it, is called "wheel"."""
  name = thing.name.rpartition(":")[2].strip()
  if thing.region.part_of is None or name in ("", thing.name):
    return thing
  return dataclasses.replace(thing, region=dataclasses.replace(thing.region, name=name))
