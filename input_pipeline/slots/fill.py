"""The earlier masks of an example: which [SEG] see which, what they hold, their labels.

Each [SEG] of a row has a slot for its mask, which the [SEG] of later answers of that
conversation see. In an evaluation it holds the mask of the data set. In training it is
what a model might have made of it (`Draws`), and labels are those of the true masks.

M [SEG] of a row, E = M slots, S side of the canvas, Q side of a slot.
"""

import dataclasses

import numpy as np

from input_pipeline.augment import Chance
from input_pipeline.slots import relations
from input_pipeline.slots.damage import damaged

ORIGINS = ("model", "user")
MODEL, USER = range(len(ORIGINS))
_ONE_IN_OWN = 4  # one slot in so many may hold the model's own mask
LABEL_SIDE = 128  # pixels of a side that relations are found on, at most
INSIDE = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws:
  """What slots hold in training, as shares; the rest is the true mask.

  drop: nothing. damaged: see damage.py. own: the model's mask of this very step, for
  which state tokens, read before it is made, have a damaged one; of a row at most
  `most_own`, the others are damaged. wrong:
  nothing inside, or another target's mask. swapped: of the slots that later [SEG] only
  repeat, those that hold another target's mask as if the user had given it, which is
  then their target too: a slot counts more than the words before it.
  user: true masks that count as the user's.
  """

  seed: int = 0
  drop: float = 0.3
  damaged: float = 0.3
  own: float = 0.2
  wrong: float = 0.1
  swapped: float = 0.2
  user: float = 0.1

  def of(self, epoch: int, example: int) -> "Draw":
    return Draw(self, f"{self.seed}\0slots\0{epoch}\0{example}")


@dataclasses.dataclass(frozen=True)
class Draw:
  """The chances of one example: the same for the same seed, epoch and example."""

  shares: Draws
  key: str

  def chance(self, slot: int) -> Chance:
    return Chance(self.shares.seed, 0, f"{self.key}\0{slot}")


def slots(
  masks_MSS, row, side, *, most, draw=None, read=False
) -> dict[str, np.ndarray]:
  """{name: array} of `batch_table.SLOTS` of one example.

  masks_MSS: uint8 0/1, of which [SEG] may be given another one (Draws.swapped). row:
  `batch_table.row_names()`. most: the latest slots that a [SEG] sees. read: whether the
  language model reads slots: then those of which only words come after are filled too.
  """
  M = len(masks_MSS)
  seen_ME = _seen(row, most)
  content = {}
  if draw:
    content = _swap(masks_MSS, seen_ME, draw)
  now = small(masks_MSS, LABEL_SIDE)
  label_ME = _relations(now, seen_ME)
  valid_E, origin_E = seen_ME.any(0), np.zeros(M, np.int32)
  if read:
    valid_E |= _before_an_answer(row)
  own_E = np.full(M, -1, np.int32)
  held_ESS = masks_MSS.copy()
  for e in np.flatnonzero(valid_E) if draw else ():
    if e in content:
      held_ESS[e], origin_E[e] = content[e], USER
      label_ME[:, e] = _against(now, content[e], seen_ME[:, e])
      continue
    kind = _kind(draw.shares, draw.chance(e))
    if kind == "own" and (own_E >= 0).sum() == most_own(M):
      kind = "damaged"
    valid_E[e] = kind != "drop"
    if kind == "own":  # not made yet when state tokens are read
      own_E[e], held_ESS[e] = e, damaged(masks_MSS[e], draw.chance(e))
    elif kind == "wrong":
      held_ESS[e] = _wrong(masks_MSS, e, draw.chance(e))
      label_ME[:, e] = np.where(seen_ME[:, e], relations.UNRELATED, -1)
    elif kind == "damaged":
      held_ESS[e] = damaged(masks_MSS[e], draw.chance(e))
    elif kind == "user":
      origin_E[e] = USER
  seen_ME &= valid_E
  label_ME = np.where(seen_ME, label_ME, -1)
  masks_EQQ = np.zeros((M, side, side), np.uint8)
  masks_EQQ[valid_E] = shrunk(held_ESS[valid_E], side)  # of most rows, few
  return {
    "slot_masks": masks_EQQ,
    "slot_valid": valid_E.astype(np.int32),
    "slot_origin": origin_E,
    "slot_own": np.where(valid_E, own_E, -1).astype(np.int32),
    "slot_seen": seen_ME.astype(np.int32),
    "slot_relation": label_ME.astype(np.int32),
    "slot_pointer": _pointers(label_ME, seen_ME),
  }


def most_own(slots) -> int:
  """How many slots of a row, which has so many, hold the model's own mask at most:
  only these masks are made twice in a step."""
  return -(-slots // _ONE_IN_OWN)


def shrunk(masks_ESS, side) -> np.ndarray:
  """Masks 0/1 -> uint8 [E, side, side]: how much of each cell is inside, of 255."""
  E, S, _ = masks_ESS.shape
  k = S // side
  cells = masks_ESS.astype(np.float32).reshape(E, side, k, side, k).mean((2, 4))
  return np.rint(INSIDE * cells).astype(np.uint8)


def small(masks_MSS, most) -> np.ndarray:
  """bool masks of a side of at most `most`, every k-th pixel."""
  k = -(-masks_MSS.shape[1] // most)
  return masks_MSS[:, ::k, ::k] > 0


def _seen(row, most):
  """bool [M, M]: the slots that each [SEG] sees, of earlier answers of its talk."""
  at_M, valid_M = row["seg_pos"], row["seg_valid"] > 0
  answer_M = np.cumsum(row["loss_mask"] == 0)[at_M]  # constant within one answer
  talk_M = row["segments"][at_M]
  seen_ME = (talk_M[:, None] == talk_M) & (answer_M[None] < answer_M[:, None])
  seen_ME &= valid_M[:, None] & valid_M
  after_ME = _ages(seen_ME)
  return seen_ME & (after_ME < most)


def _before_an_answer(row):
  """bool [M]: the [SEG] after whose answer their talk goes on."""
  said_T, at_M = row["loss_mask"] > 0, row["seg_pos"]
  answer_T = np.cumsum(~said_T)  # constant within one answer
  talk_MT = row["segments"] == row["segments"][at_M][:, None]
  later_MT = answer_T > answer_T[at_M][:, None]
  return (talk_MT & later_MT & said_T).any(1) & (row["seg_valid"] > 0)


def _ages(seen_ME):
  """How many later slots each [SEG] sees beside a slot: 0 is the latest."""
  return np.cumsum(seen_ME[:, ::-1], axis=1)[:, ::-1] - seen_ME


def _relations(now, seen_ME):
  """[M, E] indices in RELATIONS; -1 where a slot is not seen."""
  label_ME = np.full(seen_ME.shape, -1, np.int32)
  for m, e in zip(*np.nonzero(seen_ME), strict=True):
    label_ME[m, e] = relations.relation(now[m], now[e])
  return label_ME


def _against(now, mask_SS, seen_M):
  """The column of a slot that holds another mask than its own."""
  held = small(mask_SS[None], LABEL_SIDE)[0]
  label_M = np.full(len(now), -1, np.int32)
  for m in np.flatnonzero(seen_M):
    label_M[m] = relations.relation(now[m], held)
  return label_M


def _pointers(label_ME, seen_ME):
  """The slot that each [SEG] is about, E for none; -1 where it sees none."""
  ages = _ages(seen_ME)
  found = [
    relations.pointer(labels, age) if seen.any() else -1
    for labels, age, seen in zip(label_ME, ages, seen_ME, strict=True)
  ]
  return np.array(found, np.int32)


def _kind(shares, chance):
  """What a slot holds: drop, damaged, own, wrong, user or true."""
  if chance("drop?") < shares.drop:
    return "drop"
  at = chance("kind?")
  for name in ("damaged", "own", "wrong"):
    if at < getattr(shares, name):
      return name
    at -= getattr(shares, name)
  return "user" if chance("user?") < shares.user else "true"


def _wrong(masks_MSS, e, chance):
  """Nothing inside, or another target's mask."""
  others = _others(masks_MSS, e)
  if not others or chance("empty?") < 0.5:
    return np.zeros_like(masks_MSS[e])
  return masks_MSS[others[int(chance("other", 0, len(others)))]]


def _others(masks_MSS, e):
  """Targets of the row that are neither empty nor the mask of slot e."""
  now = small(masks_MSS, LABEL_SIDE)
  apart = (relations.SIBLING, relations.UNRELATED)
  return [
    m
    for m in range(len(now))
    if m != e and now[m].any() and relations.relation(now[m], now[e]) in apart
  ]


def _swap(masks_MSS, seen_ME, draw):
  """{slot: another target's mask}, which those that repeat the slot get as target."""
  label_ME, content = _relations(small(masks_MSS, LABEL_SIDE), seen_ME), {}
  for e in np.flatnonzero(seen_ME.any(0)):
    repeats = np.flatnonzero(seen_ME[:, e])
    chance = draw.chance(e)
    others = _others(masks_MSS, e)
    only = len(repeats) == 1 and (label_ME[repeats, e] == relations.SAME).all()
    if not only or not others or chance("swap?") >= draw.shares.swapped:
      continue
    if seen_ME[:, repeats[0]].any():  # what comes after the repeated one is about it
      continue
    content[int(e)] = masks_MSS[others[int(chance("other", 0, len(others)))]].copy()
    masks_MSS[repeats[0]] = content[int(e)]
  return content
