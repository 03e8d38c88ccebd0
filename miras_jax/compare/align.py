"""Matches the examples of several runs, and says what does not match.

An example is one conversation of the data set: id, image, questions, gold answers and
targets are equal in every run. Of examples that are equal in all of that, the first in
one run belongs to the first in another, and so on.
"""

import collections
import dataclasses
from typing import NamedTuple

import numpy as np

from input_pipeline.records import Problem
from miras_jax.compare import predictions

KINDS = {
  "unreadable": "lines that cannot be read",
  "missing": "examples that another run has",
  "other_data": "examples whose words or targets are not those of another run",
  "wrong_mask": "masks of another size, or of none",
}


class Example(NamedTuple):
  """talks: that of each run, an empty one where it has none. true: RLE of each target,
  None where no run knows it."""

  talks: list
  true: list

  @property
  def id(self):
    return self.talks[0].id

  @property
  def image(self):
    return self.talks[0].image


@dataclasses.dataclass
class Found:
  """Problems by kind and run. `lines` of one kind are in the order of the files."""

  counts: dict = dataclasses.field(default_factory=collections.Counter)
  lines: dict = dataclasses.field(default_factory=lambda: {kind: [] for kind in KINDS})

  def add(self, kind, run, record, reason):
    """Notes that `reason` holds for a record (line or id) of a run."""
    problem = record
    if not isinstance(problem, Problem):
      problem = Problem(run.path, record, reason)
    self.counts[kind, run.label] += 1
    self.lines[kind].append(str(problem))

  def total(self) -> int:
    return sum(self.counts.values())

  def by_run(self, kind) -> dict:
    return {run: n for (of, run), n in self.counts.items() if of == kind}


def align(runs, found) -> list[Example]:
  """The examples of any run, in the order of the first run that has them.

  What misses one is added to `found`.
  """
  table = {}
  for place, run in enumerate(runs):
    for problem in run.problems:
      found.add("unreadable", run, problem, "")
    seen = collections.Counter()
    for talk in run.talks:
      key = talk.asked()
      seen[key] += 1
      row = table.setdefault((key, seen[key]), [None] * len(runs))
      row[place] = talk
  rows = list(table.values())
  truth = [_truth(row, runs, found) for row in rows]
  for place, run in enumerate(runs):
    _note_missing(place, run, rows, runs, found)
  return [Example(_filled(row), true) for row, true in zip(rows, truth, strict=True)]


def _note_missing(place, run, rows, runs, found):
  """Where the run has another conversation of that id, it is of another data set."""
  others = collections.Counter(
    row[place].id for row in rows if row[place] and None in row
  )
  for row in rows:
    if row[place] is not None:
      continue
    owner, talk = next((r, t) for r, t in zip(runs, row, strict=True) if t)
    kind, reason = "missing", f"is missing; {owner.label} has it"
    if others[talk.id]:
      others[talk.id] -= 1
      kind = "other_data"
      reason = f"words or targets are not those of {owner.label}: another data set"
    found.add(kind, run, talk.id, reason)


def _filled(row):
  empty = blank(next(filter(None, row)))
  return [empty if talk is None else talk for talk in row]


def blank(talk):
  """The conversation as a model that says nothing would have left it."""
  turns = tuple(turn._replace(answer="", num_seg=0) for turn in talk.turns)
  targets = tuple(target._replace(mask=None) for target in talk.targets)
  return talk._replace(turns=turns, targets=targets)


def _truth(row, runs, found):
  """True masks as the first run with any says; a run that has others is blanked."""
  known, owner = None, None
  for place, talk in enumerate(row):
    if talk is None or any(target.true is None for target in talk.targets):
      continue
    masks = [target.true for target in talk.targets]
    if known is None:
      known, owner = masks, runs[place]
    elif not all(map(same_mask, known, masks)):
      reason = f"{talk.id}: its true masks are not those of {owner.label}"
      found.add("other_data", runs[place], talk.line, f"{reason}: another data set")
      row[place] = blank(talk)
  return known if known is not None else [None] * len(next(filter(None, row)).targets)


def same_mask(a, b) -> bool:
  """Whether two RLEs are of equal masks; one of no mask equals its copy only."""
  if a == b:
    return True
  try:
    return np.array_equal(predictions.decode(a), predictions.decode(b))
  except ValueError:
    return False
