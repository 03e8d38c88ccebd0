"""ROUGE-L of answers, as the package rouge-score has it without a stemmer.

Written out since that package takes seconds to import. Words are runs of a to z and 0
to 9: of a text in other letters there are none.
"""

import re
from collections.abc import Sequence

import numpy as np

_OTHER = re.compile(r"[^a-z0-9]+")


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> np.ndarray:
  """F measure of the longest common subsequence of each pair: (N,) of 0 to 1."""
  pairs = zip(answers, references, strict=True)
  return np.array([_f_measure(_words(a), _words(b)) for a, b in pairs], float)


def _words(text):
  return _OTHER.sub(" ", text.lower()).split()


def _f_measure(answer, reference):
  common = _longest_common(answer, reference)
  if not common:
    return 0.0
  precision, recall = common / len(answer), common / len(reference)
  return 2 * precision * recall / (precision + recall)


def _longest_common(one, other) -> int:
  """Length of the longest common subsequence, a row of its table at a time.

  The table's row grows by one where a bit of `row` is 0 (Hyyrö 2004).
  """
  places = {}
  for i, word in enumerate(one):
    places[word] = places.get(word, 0) | 1 << i
  full = (1 << len(one)) - 1
  row = full
  for word in other:
    met = row & places.get(word, 0)
    row = (row + met | row - met) & full
  return len(one) - row.bit_count()
