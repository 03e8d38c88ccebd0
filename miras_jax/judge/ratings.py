"""Ratings of judges and people in one form, and what they say together."""

import collections
import itertools
from typing import NamedTuple

from miras_jax.judge import agreement, preference, statistics
from miras_jax.judge.rubric import FIRST, LEVELS, SECOND, TIE
from miras_jax.judge.tasks import PAIR, SCORE, Task
from miras_jax.llm.asking import Outcome

WINNER = "winner"
HUMAN = "human:"  # before the name of a person, so that no model is taken for one
OVERALL = "mean"  # of all criteria


class Rating(NamedTuple):
  """One answer of a rater. question: a criterion, or WINNER.

  value: 1 to 5 for a criterion of one system; for WINNER of two systems 1 where the
  first of them won, -1 where the second did, 0 for a tie.
  """

  rater: str
  question: str
  systems: tuple[str, ...]
  id: str
  image: str
  value: int


class Answer(NamedTuple):
  """A task, who answered it, and how."""

  judge: str
  task: Task
  outcome: Outcome


def of_answers(answers: list[Answer], criteria) -> list[Rating]:
  """Scores (not those of probes), and the winner where both orders were answered."""
  found = []
  for judge, task, outcome in answers:
    if task.kind == SCORE and not task.probe and outcome.value:
      found += [
        Rating(judge, name, task.systems, task.id, task.image, outcome.value[name])
        for name in criteria
      ]
  return found + [
    Rating(judge, WINNER, there.systems, there.id, there.image, result)
    for judge, there, result, _ in contests(answers)
  ]


def contests(answers: list[Answer]):
  """(judge, task of the first order, result, whether the orders agree) of each pair.

  Two orders that name different winners are a tie.
  """
  pairs = [a for a in answers if a.task.kind == PAIR]
  for there, back in zip(pairs[::2], pairs[1::2], strict=True):
    one, other = won(there.task, there.outcome), won(back.task, back.outcome)
    if one is not None and other is not None:
      yield there.judge, there.task, one if one == -other else 0, one == -other


def won(task: Task, outcome: Outcome) -> int | None:
  """1, 0, -1 as in Rating, None without an answer."""
  if not outcome.value:
    return None
  return {FIRST: 1, TIE: 0, SECOND: -1}[outcome.value[WINNER]]


def score_table(ratings: list[Rating], criteria, **options) -> dict:
  """{system: {criterion or OVERALL: mean with interval}} of one rater's ratings."""
  table = collections.defaultdict(dict)
  for rating in ratings:
    if rating.question != WINNER:
      key = (rating.id, rating.image)
      table[rating.systems[0]].setdefault(key, {})[rating.question] = rating.value
  return {
    system: {
      name: statistics.mean(
        [value for _, value in rows], [image for image, _ in rows], **options
      )
      for name, rows in _columns(rated, criteria).items()
    }
    for system, rated in table.items()
  }


def _columns(rated, criteria):
  """{criterion: [(image, value)]}; OVERALL of those with every criterion."""
  columns = {name: [] for name in (*criteria, OVERALL)}
  for (_, image), values in rated.items():
    for name in criteria:
      if name in values:
        columns[name].append((image, values[name]))
    if len(values) == len(columns) - 1:
      columns[OVERALL].append((image, sum(values.values()) / len(values)))
  return columns


def pair_table(ratings: list[Rating], systems: list[str], **options) -> dict:
  """Win rates of each two systems and the strengths of all, of one rater's ratings."""
  found = [
    preference.Contest(r.image, *r.systems, r.value)
    for r in ratings
    if r.question == WINNER
  ]
  by_pair = collections.defaultdict(list)
  for contest in found:
    by_pair[contest.first, contest.second].append(contest)
  return {
    "win_rates": [
      {"first": first, "second": second} | preference.win_rate(some, **options)
      for (first, second), some in by_pair.items()
    ],
    "strengths": preference.strengths(found, systems, **options) if found else None,
  }


def agree(ratings: list[Rating], criteria, **options) -> dict:
  """{question: {"alpha": {judges, humans, all}, "kappa": one for each two raters}}."""
  return {
    question: _agree_on(question, ratings, **options)
    for question in (*criteria, WINNER)
  }


def _agree_on(question, ratings, **options):
  lowest, size = (-1, 3) if question == WINNER else (LEVELS[0], len(LEVELS))
  metric = "nominal" if question == WINNER else "ordinal"
  units = {}
  for r in ratings:
    if r.question == question:
      unit = units.setdefault((r.systems, r.id), agreement.Unit(r.image, {}))
      unit.ratings[r.rater] = r.value - lowest
  raters = list(dict.fromkeys(rater for u in units.values() for rater in u.ratings))
  people = {rater for rater in raters if rater.startswith(HUMAN)}
  groups = {"judges": set(raters) - people, "humans": people, "all": set(raters)}

  def alpha_of(group):
    some = [
      u._replace(ratings={k: v for k, v in u.ratings.items() if k in group})
      for u in units.values()
    ]
    return agreement.alpha(some, size, metric, **options)

  rated = list(units.values())
  return {
    "alpha": {name: alpha_of(g) for name, g in groups.items() if len(g) > 1},
    "kappa": [
      agreement.kappa(rated, a, b, size, question != WINNER, **options)
      for a, b in itertools.combinations(raters, 2)
    ],
  }
