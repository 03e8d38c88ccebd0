"""CIDEr of answers (arXiv 1411.5726) in the form that pycocoevalcap made the standard.

That form, often called CIDEr-D: n-grams of 1 to 4 words weighted by how rare they are
among the references, counts clipped to the reference's, a Gaussian penalty on the
difference of the lengths (counted in word pairs, as there), times 10. N answers, each
with one reference.
"""

import collections
import math
import re
from collections.abc import Sequence

import numpy as np

ORDER = 4
SIGMA = 6.0  # of the penalty, word pairs
_WORD = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|[^\W\u2e80-\u9fff\uf900-\ufaff]+")


def tokenise(text: str) -> str:
  """Words in lower case without punctuation, spaces between them; Chinese and Japanese
  signs are words each. Stands in for the PTB tokeniser, which needs Java."""
  return " ".join(_WORD.findall(text.lower()))


def scores(answers: Sequence[str], references: Sequence[str]) -> np.ndarray:
  """(N,) of 0 to 10, from tokenised texts: words are what spaces part."""
  hypotheses, golds = ([_counts(x) for x in side] for side in (answers, references))
  frequency = collections.Counter(gram for gold in golds for gram in gold)
  most = math.log(len(golds)) if golds else 0.0
  weigh = _Weigher(frequency, most)
  pairs = zip(hypotheses, golds, strict=True)
  return np.array([_score(weigh(a), weigh(b)) for a, b in pairs], float)


def _counts(text):
  """{n-gram: how often} of 1 to ORDER words."""
  words = text.split()
  return collections.Counter(
    tuple(words[i : i + n])
    for n in range(1, ORDER + 1)
    for i in range(len(words) - n + 1)
  )


class _Weigher:
  """Counts to (weights of each order, their norms, number of word pairs)."""

  def __init__(self, frequency, most):
    self._frequency, self._most = frequency, most

  def __call__(self, counts):
    vectors, squares = [{} for _ in range(ORDER)], [0.0] * ORDER
    for gram, count in counts.items():
      rarity = self._most - math.log(max(1, self._frequency[gram]))
      weight, place = count * rarity, len(gram) - 1
      vectors[place][gram] = weight
      squares[place] += weight**2
    pairs = sum(count for gram, count in counts.items() if len(gram) == 2)
    return vectors, [math.sqrt(x) for x in squares], pairs


def _score(answer, gold):
  (mine, my_norms, length), (theirs, their_norms, wanted) = answer, gold
  penalty = math.e ** (-((length - wanted) ** 2) / (2 * SIGMA**2))
  total = 0.0
  for n in range(ORDER):
    shared = sum(
      min(weight, theirs[n].get(gram, 0.0)) * theirs[n].get(gram, 0.0)
      for gram, weight in mine[n].items()
    )
    norms = my_norms[n] * their_norms[n]
    total += penalty * (shared / norms if norms else shared)
  return 10 * total / ORDER
