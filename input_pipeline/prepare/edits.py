"""Requests that go on from the mask before: edit turns of `miras data synth --edits`.

  same        "the same again, more exactly"
  union       "also the small blue tree"
  difference  "without the wheels", "without the small blue tree"
  part        "only the roof", "only the left half"
  whole       "the whole of it again"
  sibling     "no, the other house"

Their masks follow from set algebra on the outlines of the scene, so they are exact.
Outlines are lists of (x, y) points in pixels.
"""

import dataclasses

import numpy as np

from input_pipeline.prepare.dialogue import Conversation, Target
from input_pipeline.prepare.scene import PARTS, Scene, SceneObject

MOST_EDITS = 3
# fmt: off
_SAY = {
  "same": (("The same again, more exactly.", "Show that once more.",
            "Please draw that again."), "Again: [SEG]."),
  "union": (("Also the {x}.", "Add the {x}, too.", "Take the {x} with it."),
            "Both together: [SEG]."),
  "difference": (("Now without the {x}.", "Leave out the {x}."),
                 "Without the {x}: [SEG]."),
  "part": (("Only the {x}.", "Now just its {x}.", "I only want its {x}."),
           "Its {x}: [SEG]."),
  "whole": (("The whole of it again.", "No, all of it."), "All of it: [SEG]."),
  "sibling": (("No, the other {x}.", "I meant the other {x}."),
              "The other {x}: [SEG]."),
}
# fmt: on
# (axis, whether the lower coordinates stay) of each half.
HALVES = {
  "left half": (0, True),
  "right half": (0, False),
  "upper half": (1, True),
  "lower half": (1, False),
}


@dataclasses.dataclass(frozen=True)
class Selection:
  """What the last mask shows: objects, or a piece of one. label: its name."""

  label: str
  items: tuple[SceneObject, ...]
  piece: tuple = ()

  @property
  def target(self) -> Target:
    return Target(self.label, tuple(self.piece or _outlines(self.items)))


def with_edits(scene: Scene, talk: Conversation, rng) -> Conversation:
  """The conversation with up to MOST_EDITS requests more; as it is where its last mask
  is not that of a whole object, or is not the only one of its answer."""
  last = talk.targets[-1]
  item = next((o for o in scene.objects if _is_of(last, o)), None)
  if item is None or talk.rounds[-1][1].count("[SEG]") != 1:
    return talk
  now, rounds, targets = Selection(last.label, (item,)), [], []
  for _ in range(int(rng.integers(1, MOST_EDITS + 1))):
    choices = _choices(scene, now)
    kinds = sorted(choices)
    kind = kinds[rng.integers(len(kinds))]
    words, now = choices[kind][rng.integers(len(choices[kind]))]
    questions, answer = _SAY[kind]
    question = questions[rng.integers(len(questions))]
    rounds.append((question.format(x=words), answer.format(x=words)))
    targets.append(now.target)
  return Conversation((*talk.rounds, *rounds), (*talk.targets, *targets))


def _is_of(target, item):
  mine = item.polygons
  return len(mine) == len(target.polygons) and all(
    a is b for a, b in zip(mine, target.polygons, strict=True)
  )


def _outlines(items):
  return [polygon for item in items for polygon in item.polygons]


def _choices(scene, now) -> dict[str, list[tuple[str, Selection]]]:
  """{kind: [(what is named, what is shown then)]} of what may be asked for next."""
  found = {"same": [("", now)]}
  if now.piece:
    found["whole"] = [("", Selection(now.items[0].label, now.items))]
  elif len(now.items) == 1:
    found |= _of_one(scene, now)
  else:
    found["difference"] = [
      (gone.label, Selection(rest.label, (rest,)))
      for gone, rest in (now.items, now.items[::-1])
    ]
  return {kind: some for kind, some in found.items() if some}


def _of_one(scene, now):
  item = now.items[0]
  others = [o for o in scene.objects if o is not item]
  parts = PARTS.get(item.shape, ())
  alike = [o for o in others if o.shape == item.shape]
  return {
    "union": [
      (o.label, Selection(f"{now.label} and {o.label}", (item, o))) for o in others
    ],
    "part": [(name, _piece(now, name, item.parts[name])) for name in parts]
    + [(name, _piece(now, name, half(item.polygons, name))) for name in HALVES],
    "difference": [(name, _without(now, name)) for name in parts],
    "sibling": [(o.shape, Selection(o.label, (o,))) for o in alike[:1]]
    if len(alike) == 1
    else [],
  }


def _piece(now, name, polygons):
  return Selection(f"{name} of the {now.label}", now.items, tuple(polygons))


def _without(now, name):
  rest = [p for part, ps in now.items[0].parts.items() if part != name for p in ps]
  return Selection(f"{now.label} without its {name}", now.items, tuple(rest))


def half(polygons, name) -> list[np.ndarray]:
  """The outlines on one side of the middle of their common box."""
  axis, lower = HALVES[name]
  values = np.concatenate([np.asarray(p)[:, axis] for p in polygons])
  middle = (values.min() + values.max()) / 2
  cut = [_clip(np.asarray(p, float), axis, middle, lower) for p in polygons]
  return [polygon for polygon in cut if len(polygon) > 2]


def _clip(polygon, axis, middle, lower):
  """A polygon on one side of a line (Sutherland and Hodgman, 1974)."""
  kept, side = [], 1 if lower else -1
  for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
    before, after = side * (middle - a[axis]), side * (middle - b[axis])
    if before >= 0:
      kept.append(a)
    if before * after < 0:
      kept.append(a + (b - a) * before / (before - after))
  return np.array(kept).reshape(-1, 2)
