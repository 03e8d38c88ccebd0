"""What masks say of the things of a photograph: tests with a verdict on each thing.

A verdict is yes, no, or None where one may argue (`input_pipeline.narrate.facts`).
Things are named by ids, "a3" for the region of number 3.
"""

import math
from collections.abc import Iterable

from input_pipeline.narrate import facts
from input_pipeline.narrate.things import Scene, Thing
from input_pipeline.narrate.wordings import COLOURS, PLACES

MOST_THINGS = 24  # the largest ones, that are measured
MOST_OTHERS = 12  # likewise, that relations lead to
NONE = "none"
RELATIONS = ("touches", "above", "below", "larger", "smaller")
EXTREMES = (
  "leftmost", "rightmost", "highest", "lowest", "largest", "smallest",
)  # fmt: skip
KINDS = (NONE, *PLACES, "colour", *RELATIONS, *EXTREMES)
# Which check a contradicted test belongs to.
CHECK_OF = (
  dict.fromkeys((*PLACES, "leftmost", "rightmost", "highest", "lowest"), "side")
  | dict.fromkeys(("larger", "smaller", "largest", "smallest"), "size")
  | dict.fromkeys(("touches", "above", "below", "colour"), "relation")
)


def thing_id(thing: Thing) -> str:
  return f"a{thing.number}"


class Measures:
  """Things by id and what is true of them. whole: none was left out as too many."""

  def __init__(self, scene: Scene):
    self.scene = scene
    usable = [t for t in scene.things if t.region.part_of is None and t.spoken]
    kept = sorted(usable, key=lambda t: -t.area)[:MOST_THINGS]
    self.whole = len(kept) == sum(t.region.part_of is None for t in scene.things)
    self.things = {thing_id(t): t for t in sorted(kept, key=lambda thing: thing.number)}
    names = [t.name.casefold() for t in scene.things]
    self.alone = {
      i for i, t in self.things.items() if names.count(t.name.casefold()) == 1
    }
    self._known = {}

  def targets(self) -> list[str]:
    """Ids of what a mask may be asked of."""
    return [i for i, t in self.things.items() if self.scene.is_target(t)]

  def others(self) -> list[str]:
    """Ids that a relation may lead to: their name says which thing is meant."""
    # Of equal areas the first: a set has another order in every process.
    alone = [i for i in self.things if i in self.alone]
    alone.sort(key=lambda i: -self.things[i].area)
    return alone[:MOST_OTHERS]

  def verdict(self, kind: str, of: str, thing: str) -> bool | None:
    """Of a test that is no extreme; None also where it cannot be made."""
    key = kind, of, thing
    if key not in self._known:
      self._known[key] = self._verdict(*key)
    return self._known[key]

  def winner(self, kind: str, group: Iterable[str]) -> str | None:
    """The thing of a group that is an extreme of it by a clear margin."""
    group = sorted(group)
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
    for kind, of in kinds:
      verdicts = {i: self.verdict(kind, of, i) for i in self.things if i != of}
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
