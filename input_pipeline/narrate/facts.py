"""What is true of exactly one thing of a group, beyond dispute.

A fact is only made where one thing has it and each of the others clearly has not: by a
margin of position, size or colour, never by a pixel.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from input_pipeline.narrate import things
from input_pipeline.narrate.things import Scene, Thing
from input_pipeline.narrate.wordings import COLOURS

APART = 0.06  # of a side of the photograph, by which an extreme of position must win
CENTRAL = 0.1  # likewise, for the distance to the centre
LARGER = 1.6  # factor by which an extreme of size must win
TOUCH = 0.008  # of the longer side: things so near each other touch
NO_TOUCH = 0.03  # and so far from each other they do not
MOST_OTHERS = 12  # things, the largest ones, that relations lead to
INSIDE, OUTSIDE = 0.9, 0.2  # share of a thing in a half that it is surely (not) in


@dataclasses.dataclass(frozen=True)
class Fact:
  """kind: of `Wordings.say`. word: key of its table or, for a relation, None; other:
  the thing that a relation leads to."""

  kind: str
  thing: Thing
  word: str | None = None
  other: Thing | None = None


def facts(scene: Scene, group: Sequence[Thing]) -> list[Fact]:
  """All facts that single out one thing of a group of two or more."""
  return [*_orders(group), *_sizes(group), *_colours(group), *_relations(scene, group)]


def clearly_first(values: Sequence[float], margin: float) -> int | None:
  """Index of the smallest value where it wins by a margin, else None."""
  order = sorted(range(len(values)), key=values.__getitem__)
  won = len(order) > 1 and values[order[1]] - values[order[0]] >= margin
  return order[0] if won else None


def _extreme(group, word, values, margin):
  index = clearly_first(values, margin)
  if index is not None:
    yield Fact("ask_word", group[index], word)


def _orders(group):
  xs, ys = [t.x for t in group], [t.y for t in group]
  yield from _extreme(group, "leftmost", xs, APART)
  yield from _extreme(group, "rightmost", [-x for x in xs], APART)
  yield from _extreme(group, "highest", ys, APART)
  yield from _extreme(group, "lowest", [-y for y in ys], APART)
  from_centre = [math.hypot(t.x - 0.5, t.y - 0.5) for t in group]
  yield from _extreme(group, "central", from_centre, CENTRAL)


def _sizes(group):
  logs = [math.log(t.area) for t in group]
  yield from _extreme(group, "largest", [-value for value in logs], math.log(LARGER))
  yield from _extreme(group, "smallest", logs, math.log(LARGER))


def _colours(group):
  for name in COLOURS:
    verdicts = [t.colours[name] for t in group]
    if sorted(map(str, verdicts)) == ["False"] * (len(group) - 1) + ["True"]:
      yield Fact("ask_colour", group[verdicts.index(True)], name)


def _relations(scene, group):
  """Relations to a thing outside the group that its name alone identifies."""
  outside = [t for t in scene.singles if t not in group]
  outside = sorted(outside, key=lambda t: -t.area)[:MOST_OTHERS]
  tests = (("ask_next_to", touches), ("ask_above", is_above), ("ask_below", is_below))
  for other, (kind, test) in itertools.product(outside, tests):
    verdicts = []
    for thing in group:
      verdicts.append(test(scene, thing, other))
      if verdicts[-1] is None or verdicts.count(True) > 1:
        break
    else:
      if True in verdicts:
        yield Fact(kind, group[verdicts.index(True)], other=other)


def touches(scene, thing, other) -> bool | None:
  """Whether two things touch; None where that is a matter of opinion."""
  side = max(scene.look_hw)
  most = math.ceil(NO_TOUCH * side)
  pixels = things.gap(thing, other, most)
  if pixels <= max(1, TOUCH * side):
    return True
  return False if pixels >= most else None


def is_above(scene, thing, other) -> bool | None:
  """Whether a thing lies above another, right over it; None: one may argue."""
  return _beyond(scene, thing, other, above=True)


def is_below(scene, thing, other) -> bool | None:
  return _beyond(scene, thing, other, above=False)


def _beyond(scene, thing, other, *, above):
  x0, y0, x1, y1 = other.box
  # A thing that reaches over the edge of the other one is a matter of opinion.
  share = things.share_before(thing, 0, y0 if above else y1, scene.look_hw)
  share = share if above else 1 - share
  over = min(x1, thing.box[2]) - max(x0, thing.box[0])
  aligned = over / min(x1 - x0, thing.box[2] - thing.box[0])
  if share >= INSIDE and aligned >= 0.5:
    return True
  passed = thing.y >= other.y + APART if above else thing.y <= other.y - APART
  return False if passed or aligned <= 0 else None


# Axis (0: y), and whether the half is the second one on it.
_HALVES = {
  "left": (1, False), "right": (1, True), "top": (0, False), "bottom": (0, True),
}  # fmt: skip


def in_half(
  scene: Scene, place: str, group: Sequence[Thing] | None = None
) -> tuple[Thing, ...] | None:
  """Those of a group (None: of all things) that lie in a half of the photograph; None
  where for one of them it is a matter of opinion."""
  axis, second = _HALVES[place]
  inside = []
  for thing in scene.things if group is None else group:
    share = things.share_before(thing, axis, 0.5, scene.look_hw)
    share = 1 - share if second else share
    if OUTSIDE < share < INSIDE:
      return None
    inside += [thing] if share >= INSIDE else []
  return tuple(inside)
