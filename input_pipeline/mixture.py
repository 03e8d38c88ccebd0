"""Several sources as one: examples come from each in proportion to its weight."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence

from input_pipeline.records import RecordError
from input_pipeline.source import Source
from miras_jax.errors import UserError


def mix(sources: Iterable[Source], weights: Iterable[float]) -> "Mixture":
  """Mixture whose examples come from `sources` in proportion to `weights`.

  Every source repeats for ever on its own, so a small one is drawn again instead of
  ending the mixture. Once packed (`packing.pack`), the proportion is one of rows.
  Raises UserError for a source without examples and for weights that are not positive.
  """
  sources, weights = tuple(sources), tuple(float(w) for w in weights)
  if len(sources) != len(weights) or not sources:
    raise UserError(f"{len(sources)} sources but {len(weights)} weights")
  if any(not w > 0 for w in weights):
    raise UserError(f"{weights=} are not all positive; leave unwanted sources out")
  if any(not len(s) for s in sources):
    empty = [i for i, s in enumerate(sources) if not len(s)]
    raise UserError(f"source {empty[0]} of the mixture holds no record")
  return Mixture(sources, weights)


@dataclasses.dataclass(frozen=True)
class Mixture(Source):
  """The examples of all sources, one source after the other; `weights` say how often
  each is drawn.

  Two sources may call different things by one name, so ids of records and images and
  the files in messages begin with the number of their source: `1/photo.jpg`.
  """

  sources: tuple[Source, ...]
  weights: tuple[float, ...]

  @property
  def file(self):
    return f"mixture of {', '.join(source.file for source in self.sources)}"

  @functools.cached_property
  def image_ids(self):
    return tuple(
      image_id and f"{k}/{image_id}"
      for k, source in enumerate(self.sources)
      for image_id in source.image_ids
    )

  def __len__(self):
    return sum(map(len, self.sources))

  def load(self, i):
    k, i = _locate(i, self._lengths)
    records = self.sources[k].load(i)
    if isinstance(records, tuple):
      return tuple(_named(record, k) for record in records)
    return _named(records, k)

  def dialogues(self):
    return itertools.chain.from_iterable(s.dialogues() for s in self.sources)

  def sizes(self, tokenizer, text_options):
    each = (source.sizes(tokenizer, text_options) for source in self.sources)
    return tuple(itertools.chain.from_iterable(each))

  def fingerprint(self):
    return [list(self.weights), [source.fingerprint() for source in self.sources]]

  def files_fingerprint(self):
    return [source.files_fingerprint() for source in self.sources]

  def members(self, i):
    k, i = _locate(i, self._lengths)
    first = sum(self._counts[:k])
    return tuple(first + record for record in self.sources[k].members(i))

  def num_records(self):
    return sum(self._counts)

  def file_of(self, record):
    k, record = _locate(record, self._counts)
    return f"{k}/{self.sources[k].file_of(record)}"

  def cut(self, values: Sequence) -> list[Sequence]:
    """One value for each example -> those of each source."""
    ends = list(itertools.accumulate(self._lengths))
    return [values[e - n : e] for e, n in zip(ends, self._lengths, strict=True)]

  @functools.cached_property
  def _lengths(self):
    return [len(source) for source in self.sources]

  @functools.cached_property
  def _counts(self):
    return [source.num_records() for source in self.sources]


def _locate(i, lengths):
  """(part, index in it) of index `i` through all parts; IndexError beyond the last."""
  ends = list(itertools.accumulate(lengths))
  i = range(ends[-1])[i]
  k = bisect.bisect_right(ends, i)
  return k, i - (ends[k] - lengths[k])


def _named(record, k):
  """The record of source `k` under names that no other source has."""
  if isinstance(record, RecordError):
    return RecordError(f"{k}/{record.file}", record.record, record.reason)
  image_id = record.image_id and f"{k}/{record.image_id}"
  return dataclasses.replace(record, id=f"{k}/{record.id}", image_id=image_id)
