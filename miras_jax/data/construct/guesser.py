"""A guesser that reads one turn and no picture, and what is rejected because of it.

It learns from the conversations about other photographs which words go with which
focus (counts of words and pairs of words, smoothed), scores the candidates of each turn
and takes the turn that it is surest of. Where it beats chance by more than ALLOWED, the
conversations that it is surest of are rejected until it does not.
"""

import collections
import math
import zlib
from typing import NamedTuple

from miras_jax.data.construct import checks
from miras_jax.data.construct.drafts import Draft

ALLOWED = 0.10  # above chance
FOLDS = 5
_SMOOTH = 0.5
ROUNDS = 12  # of rejecting and guessing anew


class Guess(NamedTuple):
  """right: whether the surest turn leads to the focus. margin: by which log odds the
  first candidate beats the second one in that turn. chance: of a blind guess."""

  right: bool
  margin: float
  chance: float


class Score(NamedTuple):
  """Shares of the conversations: guessed right, and by chance."""

  accuracy: float
  chance: float

  @property
  def passes(self) -> bool:
    return self.accuracy <= self.chance + ALLOWED


def prune(drafts: list[Draft]) -> tuple[list[int], Score, Score]:
  """(places of the drafts to reject, score of all, score of what stays)."""
  kept, out = list(range(len(drafts))), []
  guesses = guess([drafts[i] for i in kept])
  before = score(guesses)
  for _ in range(ROUNDS):
    now = score(guesses)
    if now.passes:
      break
    # So many right ones too many; the guesser learns anew from what stays.
    excess = math.ceil((now.accuracy - now.chance - ALLOWED) * len(kept)) + 1
    right = [k for k, g in enumerate(guesses) if g.right]
    worst = sorted(right, key=lambda k: (-guesses[k].margin, k))[:excess]
    gone = {kept[k] for k in worst}
    out += sorted(gone)
    kept = [i for i in kept if i not in gone]
    guesses = guess([drafts[i] for i in kept])
  after = score(guesses)
  if not after.passes:
    out += [i for i, g in zip(kept, guesses, strict=True) if g.right]
    kept = [i for i, g in zip(kept, guesses, strict=True) if not g.right]
    after = score(guess([drafts[i] for i in kept]))
  return sorted(out), before, after


def score(guesses: list[Guess]) -> Score:
  if not guesses:
    return Score(0.0, 0.0)
  return Score(
    sum(g.right for g in guesses) / len(guesses),
    sum(g.chance for g in guesses) / len(guesses),
  )


def guess(drafts: list[Draft]) -> list[Guess]:
  """A guess for each conversation, learnt from those about photographs of the other
  folds."""
  folds = [zlib.crc32(d.image.encode("utf-8", "replace")) % FOLDS for d in drafts]
  features = [[_features(text) for _, text in d.early()] for d in drafts]
  found = [None] * len(drafts)
  for fold in range(FOLDS):
    learnt = _Learnt()
    for draft, grams, own in zip(drafts, features, folds, strict=True):
      if own != fold:
        learnt.add(draft.names, grams)
    for k, draft in enumerate(drafts):
      if folds[k] == fold:
        found[k] = _guess(learnt, draft.names, features[k])
  return found


def _guess(learnt, names, turns):
  best = (-1.0, "")
  for grams in turns:
    scores = sorted(((learnt.score(grams, n), n) for n in names), reverse=True)
    margin = scores[0][0] - scores[1][0] if len(scores) > 1 else math.inf
    best = max(best, (margin, scores[0][1]))
  return Guess(best[1] == names[0], best[0], 1 / len(names))


class _Learnt:
  """How often a word stands in a turn when a name is the focus, and when it is a
  candidate that is not."""

  def __init__(self):
    self._focus = collections.defaultdict(collections.Counter)
    self._other = collections.defaultdict(collections.Counter)
    self._of = {True: collections.Counter(), False: collections.Counter()}

  def add(self, names, turns):
    for place, name in enumerate(names):
      table = self._other if place else self._focus
      self._of[not place][name] += len(turns)
      for grams in turns:
        table[name].update(grams)

  def score(self, grams, name) -> float:
    """Log odds that a name is the focus of a turn."""
    mine, others = self._of[True][name], self._of[False][name]
    total = math.log((mine + _SMOOTH) / (others + _SMOOTH))
    focus, other = self._focus[name], self._other[name]
    for gram in grams:
      is_so = (focus[gram] + _SMOOTH) / (mine + 2 * _SMOOTH)
      is_not = (other[gram] + _SMOOTH) / (others + 2 * _SMOOTH)
      total += math.log(is_so / is_not)
    said = set(grams)
    if all(checks.stem(word) in said for word in checks.words_of(name)):
      total += 0.0 if mine else 1.0
    return total


def _features(text):
  words = [checks.stem(word) for word in checks.words_of(text)]
  return sorted(set(words) | set(zip(words, words[1:], strict=False)), key=str)
