"""What is asked of a judge: scores, pairs in both orders, and probes."""

import dataclasses
import itertools

import numpy as np

from miras_jax.judge.conversations import Conversation, System

SCORE, PAIR = "score", "pair"
BLANK, SHUFFLED = "blank_image", "shuffled_answer"
PROBES = (BLANK, SHUFFLED)


@dataclasses.dataclass(frozen=True)
class Task:
  """One question to a judge. systems: of one conversation to score, or of the first and
  the second that are compared; shown: their conversations. probe: what was spoilt."""

  kind: str
  systems: tuple[str, ...]
  shown: tuple[Conversation, ...]
  probe: str = ""

  @property
  def id(self) -> str:
    return self.shown[0].id

  @property
  def image(self) -> str:
    """What the bootstrap draws: equal for conversations about one image."""
    return self.shown[0].image or self.id


def scores(systems: list[System], ids) -> list[Task]:
  """Every conversation of every system."""
  return [
    Task(SCORE, (system.name,), (system.conversations[i],))
    for system in systems
    for i in ids
  ]


def pairs(systems: list[System], ids) -> list[Task]:
  """Every two systems on every conversation, in both orders, one after the other."""
  return [
    Task(PAIR, (a.name, b.name), (a.conversations[i], b.conversations[i]))
    for one, other in itertools.combinations(systems, 2)
    for i in ids
    for a, b in ((one, other), (other, one))
  ]


def probes(system: System, ids, count: int, seed: int, pictures: bool) -> list[Task]:
  """`count` conversations with a blank picture, and with answers of another one.

  Without pictures there is nothing to blank; without a second conversation nothing to
  shuffle.
  """
  rng = np.random.default_rng(seed)
  chosen = sorted(rng.choice(len(ids), min(count, len(ids)), replace=False).tolist())
  found = []
  for place in chosen:
    conversation = system.conversations[ids[place]]
    if pictures:
      found.append(Task(SCORE, (system.name,), (conversation,), BLANK))
    donor = _donor(system, ids, place, rng)
    if donor is not None:
      answers = itertools.islice(
        itertools.cycle(donor.answers), len(conversation.turns)
      )
      spoilt = conversation.with_answers(answers)
      found.append(Task(SCORE, (system.name,), (spoilt,), SHUFFLED))
  return found


def _donor(system, ids, place, rng):
  """A conversation that answers otherwise, about another image where there is one."""
  own = system.conversations[ids[place]]
  order = rng.permutation(len(ids)).tolist()
  others = [system.conversations[ids[k]] for k in order if k != place]
  others = [c for c in others if c.answers != own.answers]
  elsewhere = (c for c in others if c.image != own.image)
  return next(elsewhere, others[0] if others else None)
