"""Which conversations the report shows."""

import numpy as np

from miras_jax.evaluation.report import outcomes

GROUPS = {
  "random": "Drawn at random",
  "best": "The best",
  "median": "In the middle",
  "worst": "The worst",
}
PER_FAILURE = 4


def conversations(rows, count, seed=0) -> dict:
  """{group: rows} of at most `count` conversations, none twice.

  Ranks are by the mean IoU of a conversation's targets that are not empty. A group
  shows another image with each of its rows as long as there are any.
  """
  rng = np.random.default_rng(seed)
  ranked = sorted((r for r in rows if r.score is not None), key=lambda r: -r.score)
  each, taken, groups = count // len(GROUPS), set(), {}
  middle = ranked[len(ranked) // 2].score if ranked else 0
  orders = {
    "best": ranked,
    "worst": ranked[::-1],
    "median": sorted(ranked, key=lambda r: abs(r.score - middle)),
    "random": [rows[i] for i in rng.permutation(len(rows))],
  }
  for name, order in orders.items():
    room = count - len(taken) if name == "random" else each
    groups[name] = _take(order, room, taken)
  return {name: groups[name] for name in GROUPS if groups[name]}


def failures(rows, seed=0) -> dict:
  """{kind: [(row, outcome)]}: of each kind of failure some, drawn at random."""
  rng = np.random.default_rng(seed)
  found = {kind: [] for kind in outcomes.KINDS if kind != outcomes.RIGHT}
  for i in rng.permutation(len(rows)):
    for outcome in rows[i].outcomes or ():
      if outcome.kind in found:
        found[outcome.kind].append((rows[i], outcome))
  return {
    kind: _take(pairs, PER_FAILURE, set(), lambda pair: pair[0])
    for kind, pairs in found.items()
    if pairs
  }


def _take(order, room, taken, row_of=lambda row: row):
  """The first `room` of an order, new images first; their numbers join `taken`."""
  chosen, images = [], set()
  for repeat in (False, True):
    for item in order:
      row = row_of(item)
      if len(chosen) == room:
        return chosen
      if row.number not in taken and (repeat or row.image not in images):
        chosen.append(item)
        images.add(row.image)
        taken.add(row.number)
  return chosen
