"""How a mask relates to an earlier one, by their pixels alone.

  same        nearly the same pixels
  part        a piece cut off the earlier one
  whole       the earlier one is a piece cut off this one
  sibling     apart from it and of a similar size
  union       the earlier one and something apart from it
  difference  the earlier one without something that is apart from what stays
  unrelated   anything else, and where one of them is empty

H W rows and columns, M masks, E earlier ones.
"""

import cv2
import numpy as np

RELATIONS = (
  "same", "part", "whole", "sibling", "union", "difference", "unrelated",
)  # fmt: skip
SAME, PART, WHOLE, SIBLING, UNION, DIFFERENCE, UNRELATED = range(len(RELATIONS))
# What makes an earlier mask the one that is meant, the strongest first.
STRENGTH = (SAME, DIFFERENCE, PART, UNION, WHOLE, SIBLING)

LIKE = 0.8  # least IoU of masks that are the same
WITHIN = 0.85  # least share of a mask that lies in one that contains it
APART = 0.1  # most that siblings share of the smaller one
RATIO = 3.0  # most that one sibling is larger than the other
BORDER = 0.25  # pixels of a common border, times the root of the smaller area


def relation(now_HW, earlier_HW) -> int:
  """Index in RELATIONS of a mask to an earlier one, both bool."""
  now, earlier = int(now_HW.sum()), int(earlier_HW.sum())
  if not now or not earlier:
    return UNRELATED
  both = int((now_HW & earlier_HW).sum())
  if both >= LIKE * (now + earlier - both):
    return SAME
  if both >= WITHIN * now:
    return PART if touch(now_HW, earlier_HW & ~now_HW) else DIFFERENCE
  if both >= WITHIN * earlier:
    return WHOLE if touch(earlier_HW, now_HW & ~earlier_HW) else UNION
  near = max(now, earlier) <= RATIO * min(now, earlier)
  return SIBLING if near and both <= APART * min(now, earlier) else UNRELATED


def touch(first_HW, second_HW) -> bool:
  """Whether two masks have a border in common, not a corner."""
  smaller = min(int(first_HW.sum()), int(second_HW.sum()))
  grown_HW = cv2.dilate(first_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
  return int((grown_HW & second_HW).sum()) > BORDER * smaller**0.5


def pointer(relation_E, age_E) -> int:
  """The earlier mask that is meant: the strongest relation, the latest of equals.

  relation_E: indices in RELATIONS, -1 where none is seen. age_E: 0 for the latest.
  Returns E where none is meant.
  """
  rank = {kind: place for place, kind in enumerate(STRENGTH)}
  meant = [
    (rank[kind], age, e)
    for e, (kind, age) in enumerate(zip(relation_E, age_E, strict=True))
    if kind in rank
  ]
  return min(meant)[2] if meant else len(relation_E)
