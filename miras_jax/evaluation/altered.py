"""Passes over conversations that are changed, or whose history is the gold one.

  attribute_lie     the conversation names an attribute (colour, side, height, size,
                    pattern) that the target has not
  absent_target     it asks for something that is not in the picture: the right answer
                    is an empty mask
  history_shuffled  the turns before the last request, in another order
  gold_history      the gold answers are the history: no control, but what the model's
                    own answers are compared with

Each is asked of a sample, evenly spread, of the conversations to which it applies.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.conversation import count_segs
from miras_jax.evaluation import rewordings
from miras_jax.inference.rollout import Job

ABSENT, GOLD = "absent_target", "gold_history"
SAMPLE = 64  # conversations of each pass: a batch, so that four passes cost little


@dataclasses.dataclass(frozen=True)
class Talk:
  """What a record says. names: of each target, "" where it has none. places: (turn,
  number in the turn) of each target. there: the targets that are not empty. last: the
  last turn with a target."""

  questions: tuple
  answers: tuple
  names: tuple
  places: tuple
  there: tuple

  @property
  def last(self) -> int:
    return max((turn for turn, _ in self.places), default=-1)

  def reworded(self, swap) -> "Talk":
    """Every text and name put through `swap`."""
    parts = (self.questions, self.answers, self.names)
    changed = (tuple(swap(x) for x in part) for part in parts)
    return Talk(*changed, self.places, self.there)


@dataclasses.dataclass(frozen=True)
class Altered:
  """The job of pass `name` for `record`, scored on the targets `places`."""

  name: str
  record: int
  job: Job
  places: tuple


def talk_of(record) -> Talk:
  questions, answers = (
    tuple(text for role, text in record.turns if role == side)
    for side in ("user", "assistant")
  )
  places = ((t, k) for t, x in enumerate(answers) for k in range(count_segs(x)))
  names = tuple(name or "" for name, _ in record.targets)
  there = (k for k, (_, rle) in enumerate(record.targets) if _inked(rle))
  return Talk(questions, answers, names, tuple(places), tuple(there))


def _inked(rle):
  """Whether a mask has pixels; a broken one is named where it is scored."""
  try:
    return mask_ops.rle_area(rle) > 0
  except ValueError:
    return False


def plan(talks, *, gold, sample=SAMPLE) -> tuple[list[Altered], dict]:
  """(every job, {pass: {"applies", "asked"}: conversations}).

  gold: whether the history is the gold one in all passes. sample: most conversations a
  pass, 0 for all of them.
  """
  things = rewordings.unheard_of(
    text for talk in talks for text in (*talk.questions, *talk.answers, *talk.names)
  )
  makers = {
    "attribute_lie": lambda i: _lie(i, talks[i], gold),
    ABSENT: lambda i: _absent(i, talks[i], gold, things),
    "history_shuffled": lambda i: _shuffled(i, talks[i], gold),
  }
  if not gold:
    makers[GOLD] = lambda i: _gold_history(i, talks[i])
  jobs, counts = [], {}
  for name, make in makers.items():
    every = [found for i in range(len(talks)) if (found := make(i))]
    asked = every if not sample else spread(every, sample)
    jobs += [Altered(name, *found) for found in asked]
    counts[name] = {"applies": len(every), "asked": len(asked)}
  return jobs, counts


def spread(every: Sequence, count) -> list:
  """`count` of them, evenly spread."""
  places = np.linspace(0, len(every) - 1, min(count, len(every)))
  return [every[round(place)] for place in places]


def _job(i, talk, gold):
  """The conversation up to the last target's turn."""
  history = (talk.answers, talk.names) if gold else ((), ())
  return Job(i, talk.questions[: talk.last + 1], *history)


def _lie(i, talk, gold):
  asked, there = talk.questions[: talk.last + 1], talk.there
  swap = rewordings.attribute_lie(asked, [talk.names[k] for k in there])
  if swap is None:
    return None
  first = next(t for t, text in enumerate(asked) if swap(text) != text)
  places = tuple(k for k in there if talk.places[k][0] >= first)
  return (i, _job(i, talk.reworded(swap), gold), places) if places else None


def _absent(i, talk, gold, things):
  if not talk.there:
    return None
  first = min(talk.places[k][0] for k in talk.there)
  names = [talk.names[k] for k in talk.there]
  swap = rewordings.absent_target(talk.questions[: first + 1], names, things, i)
  return swap and (i, _job(i, talk.reworded(swap), gold), talk.there)


def _shuffled(i, talk, gold):
  last = talk.last
  if last < 2 or len(set(talk.questions[:last])) < 2:
    return None
  rng = np.random.default_rng(i)
  order = list(range(last))
  while [talk.questions[t] for t in order] == list(talk.questions[:last]):
    order = rng.permutation(last).tolist()
  order += range(last, len(talk.questions))
  moved = Talk(
    tuple(talk.questions[t] for t in order),
    tuple(talk.answers[t] for t in order),
    tuple(talk.names[k] for t in order for k in _at(talk, t)),
    talk.places,
    talk.there,
  )
  return i, _job(i, moved, gold), _at(talk, last)


def _at(talk, turn):
  return tuple(k for k, (t, _) in enumerate(talk.places) if t == turn)


def _gold_history(i, talk):
  """Scored on the targets of turns that have a history."""
  later = tuple(k for k, (turn, _) in enumerate(talk.places) if turn)
  return (i, _job(i, talk, True), later) if later else None
