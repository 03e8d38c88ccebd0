"""The first records of a source, a source itself."""

import itertools

from input_pipeline.source import Source


def first_records(source: Source, limit: int) -> Source:
  """The first `limit` records, or all there are. Of a mixture, its weights are lost.

  Raises ValueError for packed rows: take the first records, then pack them.
  """
  if source.num_records() != len(source):
    raise ValueError(f"{source.file} is packed: take its first records before that")
  return First(source, limit)


class First(Source):
  """See first_records."""

  def __init__(self, source, limit):
    self.source = source
    self.file = source.file
    self.image_ids = source.image_ids[:limit]

  def __len__(self):
    return len(self.image_ids)

  def load(self, i):
    return self.source.load(range(len(self))[i])

  def dialogues(self):
    return itertools.islice(self.source.dialogues(), len(self))

  def fingerprint(self):
    return [self.source.fingerprint(), len(self)]

  def files_fingerprint(self):
    return self.source.files_fingerprint()

  def file_of(self, record):
    return self.source.file_of(record)
