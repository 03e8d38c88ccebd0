"""Several sources as one: examples come from each in proportion to its weight."""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence

from input_pipeline.records import RecordError
from input_pipeline.source import Source
from miras_jax.errors import UserError


def mix(
  sources: Iterable[Source],
  weights: Iterable[float],
  names: Iterable[str] | None = None,
  entries: Iterable[str] | None = None,
  entry_names: Iterable[str] | None = None,
) -> "Mixture":
  """Mixture whose examples come from `sources` in proportion to `weights`.

  Every source repeats for ever on its own, so a small one is drawn again instead of
  ending the mixture. Once packed (`packing.pack`), the proportion is one of rows.

  names: of the sources, by which they are known to messages and to a run that goes on
    with another mixture; default: their numbers. entries: what each source counts as in
    the log, several may share one; default: the names. entry_names: every entry there
    is, which `entry_of` numbers; default: those of `entries`, sorted.

  Raises UserError for a source without examples, for weights that are not positive and
  for two sources of one name.
  """
  sources, weights = tuple(sources), tuple(float(w) for w in weights)
  names = tuple(map(str, range(len(sources))) if names is None else names)
  if len(sources) != len(weights) or not sources:
    raise UserError(f"{len(sources)} sources but {len(weights)} weights")
  if any(not 0 < w < math.inf for w in weights):
    raise UserError(f"{weights=} are not all positive; leave unwanted sources out")
  if len(set(names)) != len(sources):
    raise UserError(f"{len(sources)} sources of a mixture need as many names: {names}")
  if any(not len(s) for s in sources):
    empty = [name for name, s in zip(names, sources, strict=True) if not len(s)]
    raise UserError(f"source {empty[0]} of the mixture holds no record")
  entries = names if entries is None else tuple(entries)
  every = sorted(set(entries)) if entry_names is None else entry_names
  return Mixture(sources, weights, names, entries, tuple(every))


@dataclasses.dataclass(frozen=True)
class Mixture(Source):
  """The examples of all sources, one source after the other; `weights` say how often
  each is drawn.

  Two sources may call different things by one name, so ids of records and images and
  the files in messages begin with the name of their source: `vqa/photo.jpg`.
  """

  sources: tuple[Source, ...]
  weights: tuple[float, ...]
  names: tuple[str, ...]
  entries: tuple[str, ...]
  entry_names: tuple[str, ...]

  @property
  def file(self):
    return f"mixture of {', '.join(source.file for source in self.sources)}"

  @functools.cached_property
  def image_ids(self):
    return _ImageIds(self)

  def __len__(self):
    return sum(map(len, self.sources))

  def load(self, i):
    k, i = self.locate(i)
    records = self.sources[k].load(i)
    if isinstance(records, tuple):
      return tuple(_named(record, self.names[k]) for record in records)
    return _named(records, self.names[k])

  def dialogues(self):
    return itertools.chain.from_iterable(s.dialogues() for s in self.sources)

  def sizes(self, tokenizer, text_options):
    each = (source.sizes(tokenizer, text_options) for source in self.sources)
    return tuple(itertools.chain.from_iterable(each))

  def fingerprint(self):
    prints = [source.fingerprint() for source in self.sources]
    return [list(self.weights), list(self.names), prints]

  def files_fingerprint(self):
    prints = (source.files_fingerprint() for source in self.sources)
    return dict(zip(self.names, prints, strict=True))

  def members(self, i):
    k, i = self.locate(i)
    first = sum(self._counts[:k])
    return tuple(first + record for record in self.sources[k].members(i))

  def num_records(self):
    return sum(self._counts)

  def file_of(self, record):
    k, record = _locate(record, self._counts)
    return f"{self.names[k]}/{self.sources[k].file_of(record)}"

  def locate(self, i: int) -> tuple[int, int]:
    """(number of the source, index in it) of example `i`."""
    return _locate(i, self._lengths)

  def entry_of(self, i: int) -> int:
    """The place in `entry_names` of the entry that example `i` counts as."""
    return self.entry_names.index(self.entries[self.locate(i)[0]])

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


class _ImageIds(Sequence):
  """`image_ids` of a mixture, each made when it is asked for."""

  def __init__(self, mixture):
    self._mixture = mixture

  def __len__(self):
    return len(self._mixture)

  def __getitem__(self, i):
    if isinstance(i, slice):
      return [self[k] for k in range(*i.indices(len(self)))]
    k, i = self._mixture.locate(i)
    return _below(self._mixture.names[k], self._mixture.sources[k].image_ids[i])

  def __iter__(self):
    for name, source in zip(self._mixture.names, self._mixture.sources, strict=True):
      for image_id in source.image_ids:
        yield _below(name, image_id)


def _below(name, image_id):
  return image_id and f"{name}/{image_id}"


def _locate(i, lengths):
  """(part, index in it) of index `i` through all parts; IndexError beyond the last."""
  ends = list(itertools.accumulate(lengths))
  i = range(ends[-1])[i]
  k = bisect.bisect_right(ends, i)
  return k, i - (ends[k] - lengths[k])


def _named(record, name):
  """The record of the source `name` under names that no other source has."""
  if isinstance(record, RecordError):
    return RecordError(f"{name}/{record.file}", record.record, record.reason)
  image_id = _below(name, record.image_id)
  return dataclasses.replace(record, id=f"{name}/{record.id}", image_id=image_id)
