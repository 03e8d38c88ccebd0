"""How two masks relate, by their pixels."""

import numpy as np
import pytest

from input_pipeline.slots import relations
from input_pipeline.slots.relations import RELATIONS


def box(*sides, side=40):
  """bool masks: of (y0, y1, x0, x1) each."""
  mask = np.zeros((side, side), bool)
  for y0, y1, x0, x1 in sides:
    mask[y0:y1, x0:x1] = True
  return mask


FIRST, SECOND = (2, 12, 2, 12), (2, 12, 20, 30)


@pytest.mark.parametrize(
  "now, earlier, kind",
  [
    ([FIRST], [(2, 12, 2, 13)], "same"),
    ([(2, 12, 2, 6)], [FIRST], "part"),
    ([FIRST], [(2, 12, 2, 6)], "whole"),
    ([FIRST], [SECOND], "sibling"),
    ([FIRST, SECOND], [FIRST], "union"),
    ([FIRST], [FIRST, SECOND], "difference"),
    ([FIRST], [(14, 40, 2, 40)], "unrelated"),
    ([], [FIRST], "unrelated"),
    ([FIRST], [], "unrelated"),
  ],
)
def test_relation(now, earlier, kind):
  assert RELATIONS[relations.relation(box(*now), box(*earlier))] == kind


def test_the_pointer_takes_the_strongest_relation_and_of_equals_the_latest():
  kinds = [RELATIONS.index(n) for n in ("part", "sibling", "part", "unrelated")]
  assert relations.pointer(kinds, [3, 2, 1, 0]) == 2


def test_the_pointer_means_none_where_nothing_is_related():
  unrelated = RELATIONS.index("unrelated")
  assert relations.pointer([unrelated, -1], [1, 0]) == 2
