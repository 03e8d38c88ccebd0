"""The records that are scored, without their photographs: those stay where they are."""

import collections
import dataclasses
import sys
from collections.abc import Callable

import tqdm

from input_pipeline.records import MOST_NAME, RecordError, SegConversation, cut
from input_pipeline.source import Source
from miras_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Records:
  """Sound records, and what is wrong with the others.

  records: their `image` is b"". image_of(i): the encoded image of record i, read again
  from the source; UserError when it cannot be any more. problems: one a defective
  record. total: how many records the split has, with those that were not read.
  """

  records: list[SegConversation]
  image_of: Callable[[int], bytes]
  problems: list
  total: int = 0


def read_records(source: Source, limit=None, *, shown, quiet=False) -> Records:
  """Reads each record once: a defective one is named, counted and left out.

  limit: of sound records. shown: what the user called the data set. quiet: names
  nothing, since another process does. Raises UserError where no record is sound.
  """
  records, numbers, problems = [], [], []
  every = range(len(source))
  for i in tqdm.tqdm(every, "reading", leave=False, disable=quiet or None):
    if limit is not None and len(records) == limit:
      break
    record = source.load(i)
    if not isinstance(record, RecordError) and not record.has_picture:
      record = RecordError(source.file, i, "has no picture: there is nothing to score")
    if isinstance(record, RecordError):
      problems.append(record.problem)
      if not quiet:
        tqdm.tqdm.write(f"{record.problem} (left out)", file=sys.stderr)
    else:
      image_id = record.image_id or f"record/{i}"
      records.append(dataclasses.replace(record, image=b"", image_id=image_id))
      numbers.append(i)
  if not records:
    raise UserError(f"{shown}: no usable record in {source.file}")
  if not quiet:
    _name_twins(records)

  def image_of(i):
    record = source.load(numbers[i])
    if isinstance(record, RecordError):
      raise record
    return record.image

  return Records(records, image_of, problems, len(source))


def _name_twins(records):
  """Says which ids are several records': each is scored, but who reads the results
  cannot tell them apart."""
  counts = collections.Counter(record.id for record in records)
  twins = [name for name, count in counts.items() if count > 1]
  if twins:
    more = f" and {len(twins) - 1} more" if len(twins) > 1 else ""
    name = repr(cut(twins[0], MOST_NAME))
    print(f"id {name}{more}: of several records, all scored", file=sys.stderr)
