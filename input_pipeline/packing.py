"""Conversations about one image share a row: system text and image once, then talks.

A row is [prefix | talk | talk | ...]. The prefix is segment 1, talk k is segment k + 2,
and positions restart after the prefix, so that every token of a talk sees what it would
see alone. The image is encoded once a row.

Groups are fixed when the data set is opened: a packed data set is a data set of rows
and the pipeline shuffles rows, so it stays elastic over hosts and workers.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline.compact import LazySequence, Rows, Sizes
from input_pipeline.conversation import Encoded
from input_pipeline.mixture import Mixture
from input_pipeline.source import Size, Source
from miras_jax.errors import UserError

PREFIX_SEGMENT = 1


def pack(
  source: Source,
  sizes: Sequence[Size | None],
  *,
  grouped: Callable[..., Rows] | None = None,
  only: np.ndarray | None = None,
  **limits: int,
) -> Source:
  """The rows of a source as a source. A mixture becomes one of packed sources.

  sizes: `source.sizes(...)`. grouped: `group(source.image_ids, sizes, **limits)` of a
  source from wherever it is kept, (source, sizes, **limits) -> Rows. only: whether each
  record is in a row at all; a source of which none is: UserError. limits: those of
  `group`.
  """
  if isinstance(source, Mixture):
    each = source.cut(only) if only is not None else [None] * len(source.sources)
    parts = zip(source.sources, source.cut(sizes), each, strict=True)
    packed = tuple(
      pack(part, cut, grouped=grouped, only=some, **limits) for part, cut, some in parts
    )
    return dataclasses.replace(source, sources=packed)
  if only is not None:
    return PackedDataset(source, _group_some(source, sizes, only, limits))
  if grouped:
    return PackedDataset(source, grouped(source, sizes, **limits))
  return PackedDataset(source, group(source.image_ids, sizes, **limits))


def group(image_ids, sizes, *, limit, max_len, max_masks) -> Rows:
  """Record indices of each row: neighbours in the order of the list, one image a row.

  Rows are filled first come, first served, up to `limit` conversations, `max_len`
  tokens and `max_masks` [SEG]s. A record of size None (a defective one) and one without
  an image prefix get a row of their own.
  """
  rows, open_rows = [], {}
  for i, (image, size) in enumerate(zip(image_ids, sizes, strict=True)):
    if size is None or not size.prefix:
      rows.append([i])
      continue
    row, tokens, segs = open_rows.get(image, (None, 0, 0))
    tokens, segs = tokens + size.talk, segs + size.segs
    full = row is not None and (
      len(row) == limit or size.prefix + tokens > max_len or segs > max_masks
    )
    if row is None or full:
      row, tokens, segs = [], size.talk, size.segs
      rows.append(row)
    row.append(i)
    open_rows[image] = row, tokens, segs
  return Rows.of(rows)


def _group_some(source, sizes, only, limits):
  """`group` of the records that `only` has."""
  kept = np.flatnonzero(only)
  if not len(kept):
    raise UserError(
      f"{source.file}: no record is left to make rows of; leave it out of the mixture,"
      " or set --config.stages.align=0"
    )
  image_ids = [source.image_ids[int(i)] for i in kept]
  rows = group(image_ids, [sizes[int(i)] for i in kept], **limits)
  return Rows(kept[rows.members], rows.ends)


def join(rows, slot_tokens=0):
  """Encoded conversations of equal prefix -> the Encoded row that holds them all.

  Earlier masks, of `slot_tokens` each, are numbered through the row. `segments_L` says
  which token belongs to which. Raises ValueError when a prefix differs: then the
  conversations are not about one image with one system text.
  """
  prefix = rows[0].prefix_length
  head = rows[0].tokens_L[:prefix]
  for row in rows[1:]:
    if not np.array_equal(row.tokens_L[: row.prefix_length], head):
      raise ValueError("the conversations of a row do not share a prefix")
  before = np.cumsum([0] + [len(row.seg_pos_K) for row in rows[:-1]])
  talks = [
    _without_prefix(row, slot_tokens * masks)
    for row, masks in zip(rows, before, strict=True)
  ]
  starts = prefix + np.cumsum([0] + [len(talk.tokens_L) for talk in talks[:-1]])

  def together(name):
    first = getattr(rows[0], name)[:prefix]
    return np.concatenate([first, *(getattr(talk, name) for talk in talks)])

  shifts = starts - prefix
  segments = [np.full(len(t.tokens_L), k + 2, np.int32) for k, t in enumerate(talks)]
  return Encoded(
    tokens_L=together("tokens_L"),
    loss_mask_L=together("loss_mask_L"),
    positions_L=together("positions_L"),
    image_slot_L=together("image_slot_L"),
    seg_pos_K=_concat(row.seg_pos_K + s for row, s in zip(rows, shifts, strict=True)),
    obj_pos_K=_concat(
      np.where(row.obj_pos_K < 0, -1, row.obj_pos_K + s)
      for row, s in zip(rows, shifts, strict=True)
    ),
    dropped_rounds=sum(row.dropped_rounds for row in rows),
    dropped_targets=sum(row.dropped_targets for row in rows),
    prefix_length=prefix,
    segments_L=np.concatenate([np.full(prefix, PREFIX_SEGMENT, np.int32), *segments]),
  )


def _without_prefix(row, moved):
  """A conversation's own tokens; those of earlier masks are `moved` further on."""
  cut = row.prefix_length
  names = ("tokens_L", "loss_mask_L", "positions_L", "image_slot_L")
  talk = row._replace(**{name: getattr(row, name)[cut:] for name in names})
  slot_L = talk.image_slot_L
  return talk._replace(image_slot_L=np.where(slot_L < 0, slot_L, slot_L + moved))


def _concat(parts):
  return np.concatenate(list(parts)).astype(np.int32)


class PackedDataset(Source):
  """A source of rows: `load(i)` is the tuple of row i's records (or RecordErrors).

  rows: record indices of each row; no record of `dataset` is in two of them.
  """

  def __init__(self, dataset: Source, rows: Rows):
    self.dataset = dataset
    self.rows = rows
    self.file = dataset.file
    self.image_ids = LazySequence(len(rows), lambda i: dataset.image_ids[rows[i][0]])

  def __len__(self):
    return len(self.rows)

  def load(self, i):
    return tuple(self.dataset.load(k) for k in self.rows[range(len(self))[i]])

  def dialogues(self):
    return self.dataset.dialogues()

  def sizes(self, tokenizer, text_options):
    sizes = self.dataset.sizes(tokenizer, text_options)
    return Sizes.of(_row_size([sizes[i] for i in row]) for row in self.rows)

  def members(self, i):
    return self.rows[i]

  def num_records(self):
    return self.dataset.num_records()

  def file_of(self, record):
    return self.dataset.file_of(record)

  def files_fingerprint(self):
    return self.dataset.files_fingerprint()

  def fingerprint(self):
    return [self.dataset.fingerprint(), self.rows.counts().tolist()]


def _row_size(sizes):
  """Size of a row that holds conversations of `sizes`; None where none is sound."""
  sound = [size for size in sizes if size]
  if not sound:
    return None
  talk, segs = (sum(getattr(s, name) for s in sound) for name in ("talk", "segs"))
  return Size(sound[0].prefix, talk, segs)
