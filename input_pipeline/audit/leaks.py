"""Pictures that two splits or two data sets share, from a table of all pictures."""

from collections.abc import Callable, Iterator

import numpy as np

from input_pipeline.audit.findings import Finding, Place
from input_pipeline.audit.pictures import Pictures, alike, near_pairs


class Leaks:
  """Compares the pictures of a table.

  names: what messages call each source. sets: number of the data set of each source; 0
  is the audited one. Where two pictures match, the finding is at the later one, so the
  sources are in the order in which they are compared with: others first, then train.
  """

  def __init__(self, pictures: Pictures, names, sets, title: Callable[[Place], str]):
    self._pictures, self._names, self._sets = pictures, names, sets
    self._title = title  # place -> the id of its picture
    self._source = np.asarray(pictures.source)
    self._told = set()  # (row, source) pairs that a finding named

  def find(self) -> Iterator[Finding]:
    """Equal pixels first, then equal ids, then what looks alike; a pair once."""
    digest = np.asarray(self._pictures.digest)
    for rows in _groups(digest):
      yield from self._within(rows)
      yield from self._between(rows, "equal_picture", "has the pixels of", 1.0)
    ids = np.asarray(self._pictures.id)
    for rows in _groups(ids, skip=0):
      # `photo1.jpg` of two data sets are two pictures, `coco/1` of two are one.
      shared = "/" in self._title(self._place(rows[0]))
      rows = [row for row in rows if shared or not self._sets[self._source[row]]]
      yield from self._between(rows, "equal_id", "has the id of", 0.0)
    for rows in _groups(np.asarray(self._pictures.coco), skip=0):
      yield from self._between(rows, "equal_id", "has the COCO number of", 0.0)
    yield from self._near()

  def _within(self, rows):
    """Pictures of one split that it holds under several ids."""
    first = {}
    for row in rows:
      before = first.setdefault(self._source[row], row)
      if before != row and not self._sets[self._source[row]]:
        yield self._finding("duplicate_picture", row, before, "has the pixels of", 0.0)

  def _between(self, rows, kind, text, weight):
    first = {}
    for row in rows:
      first.setdefault(self._source[row], row)
    for row in rows:
      for source, before in first.items():
        if self._is_new(row, source):
          yield self._finding(kind, row, before, text, weight)

  def _near(self):
    """Each picture with one of each earlier source that looks like it."""
    hashes, of_N = np.unique(np.asarray(self._pictures.hash), return_inverse=True)
    members = np.split(
      np.argsort(of_N, kind="stable"), np.cumsum(np.bincount(of_N))[:-1]
    )
    same = ((k, k) for k in range(len(hashes)) if len(members[k]) > 1)
    for pairs in (same, near_pairs(hashes)):
      for a, b in pairs:
        rows = (
          members[a] if a == b else np.sort(np.concatenate([members[a], members[b]]))
        )
        bits = int(np.bitwise_count(hashes[a] ^ hashes[b]))
        yield from self._alike(rows, bits)

  def _alike(self, rows, bits):
    if len(set(self._source[rows].tolist())) < 2:
      return
    first = {}
    for row in rows.tolist():
      first.setdefault(self._source[row], row)
    for row in rows.tolist():
      for source, before in first.items():
        thumbs = self._pictures.thumb(row), self._pictures.thumb(before)
        if (row, source) not in self._told and source < self._source[row]:
          if alike(*thumbs) and self._is_new(row, source):
            text = f"looks like ({bits} of 64 bits differ)"
            yield self._finding("near_picture", row, before, text, -bits)

  def _is_new(self, row, source):
    """Whether a match with an earlier source concerns the audited set and is new."""
    if source >= self._source[row] or self._sets[self._source[row]]:
      return False
    if (row, source) in self._told:
      return False
    self._told.add((row, source))
    return True

  def _finding(self, kind, row, before, text, weight):
    at, other = self._place(row), self._place(before)
    where = f"{self._names[other.source]}:{other.record}"
    reason = f"its picture {self._title(at)} {text} {self._title(other)} of {where}"
    return Finding(
      kind=kind,
      at=at,
      file=self._names[at.source],
      reason=reason,
      weight=weight,
      other=other,
    )

  def _place(self, row):
    return Place(int(self._source[row]), int(self._pictures.record[row]))


def _groups(keys_N, skip=None):
  """Lists of rows with equal keys, of two rows or more, rows ascending."""
  order_N = np.argsort(keys_N, kind="stable")
  cuts = np.flatnonzero(np.diff(keys_N[order_N])) + 1
  for rows in np.split(order_N, cuts):
    if len(rows) > 1 and (skip is None or keys_N[rows[0]] != skip):
      yield rows.tolist()
