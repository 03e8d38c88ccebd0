"""Golden conversations as rows of our batch: the image spliced in, [SEG] located.

B conversations, T positions, M [SEG] of one conversation, N image tokens.
"""

from typing import NamedTuple

import numpy as np

from miras_jax.errors import UserError

IGNORE = -100


class Rows(NamedTuple):
  """`image_slot` is -1 at text; padding has `mask` False, token 0 and label -100."""

  tokens_BT: np.ndarray
  image_slot_BT: np.ndarray
  labels_BT: np.ndarray
  mask_BT: np.ndarray

  @property
  def positions_BT(self):
    """Rotary positions: every place counts, padding too, as the reference leaves it."""
    B, T = self.mask_BT.shape
    return np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))

  @property
  def position_ids_BT(self):
    """What the reference's splicing returns: counted within the row, 0 at padding."""
    counted = np.cumsum(self.mask_BT, axis=1) - 1
    return np.where(self.mask_BT, counted, 0)


def splice(
  ids_BT, labels_BT, mask_BT, *, image_token, num_tokens, side="right", max_length=None
):
  """Puts `num_tokens` image slots in the place of each row's placeholder -> Rows.

  `side` is where the padding goes; `max_length` cuts the right end.
  """
  rows = [
    _splice_row(ids[mask], labels[mask], image_token, num_tokens)
    for ids, labels, mask in zip(ids_BT, labels_BT, mask_BT.astype(bool), strict=True)
  ]
  rows = [tuple(x[:max_length] for x in row) for row in rows]
  width = max(len(tokens) for tokens, *_ in rows)

  def pad(column, fill):
    def one(x):
      room = (0, width - len(x)) if side == "right" else (width - len(x), 0)
      return np.pad(x, room, constant_values=fill)

    return np.stack([one(row[column]) for row in rows])

  filled = [(*row, np.ones(len(row[0]), bool)) for row in rows]
  rows = filled
  return Rows(
    pad(0, 0).astype(np.int32),
    pad(1, -1).astype(np.int32),
    pad(2, IGNORE),
    pad(3, False),
  )


def _splice_row(ids, labels, image_token, num_tokens):
  at = np.flatnonzero(ids == image_token)
  if len(at) > 1:
    raise UserError(f"a conversation has {len(at)} image placeholders, want one")
  slots = np.full(len(ids), -1)
  if not len(at):
    return ids, slots, labels
  cut = int(at[0])

  def put(x, middle):
    return np.concatenate([x[:cut], middle, x[cut + 1 :]])

  return (
    put(ids, np.zeros(num_tokens, ids.dtype)),
    put(slots, np.arange(num_tokens)),
    put(labels, np.full(num_tokens, IGNORE, labels.dtype)),
  )


class Segs(NamedTuple):
  """[SEG] by conversation: index of the token, of its [OBJ] (or -1), and validity."""

  seg_BM: np.ndarray
  obj_BM: np.ndarray
  valid_BM: np.ndarray

  @property
  def rows_K(self):
    """The conversation of each [SEG], in order."""
    return np.nonzero(self.valid_BM)[0]

  @property
  def positions_K2(self):
    """(row, column) of the state that predicts each [SEG]."""
    rows, slots = np.nonzero(self.valid_BM)
    return np.stack([rows, self.seg_BM[rows, slots] - 1], axis=1)


def find_segs(rows, ids_BT, *, seg, obj, offset=None):
  """Locates [SEG] in spliced rows.

  The compatibility option `offset` adds a constant to the index in the text instead, as
  the reference does with 255 (right only for 256 image tokens).
  """
  found = []
  for b, tokens in enumerate(rows.tokens_BT):
    if offset is None:
      text = np.where(rows.mask_BT[b] & (rows.image_slot_BT[b] < 0), tokens, -1)
      found.append((np.flatnonzero(text == seg), np.flatnonzero(text == obj)))
    else:
      found.append((np.flatnonzero(ids_BT[b] == seg) + offset, np.zeros(0, int)))
  M = max(1, *(len(segs) for segs, _ in found))
  seg_BM, obj_BM = np.zeros((len(found), M), np.int32), np.full((len(found), M), -1)
  valid_BM = np.zeros((len(found), M), np.int32)
  for b, (segs, objs) in enumerate(found):
    before = -1
    for m, at in enumerate(segs):
      between = objs[(objs > before) & (objs < at)]
      seg_BM[b, m], valid_BM[b, m] = at, 1
      obj_BM[b, m] = between[-1] if len(between) else -1
      before = at
  return Segs(seg_BM, obj_BM.astype(np.int32), valid_BM)
