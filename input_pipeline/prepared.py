"""What examples are made of, kept in memory: for one run, or for all of a process.

An experiment trains the same data many times; what a run has decoded and tokenised, the
next one finds.
"""

import contextlib
import dataclasses
import json


@dataclasses.dataclass
class Prepared:
  """rows: parts of an example by its number. views: of an image, by its id and whether
  masks look at it. problems: of defective records, by their number."""

  rows: dict = dataclasses.field(default_factory=dict)
  views: dict = dataclasses.field(default_factory=dict)
  problems: dict = dataclasses.field(default_factory=dict)


_shared = []  # {what is prepared: Prepared} of each `shared` that is open


@contextlib.contextmanager
def shared():
  """Examples that are opened within it and prepared alike are prepared once."""
  _shared.append({})
  try:
    yield
  finally:
    _shared.pop()


def find(dataset, tokenizer, cfg, **options) -> Prepared:
  """What is prepared of a source so far; empty where nobody shares."""
  if not _shared:
    return Prepared()
  key = [
    dataset.fingerprint(),
    dataset.files_fingerprint(),
    tokenizer.fingerprint(),
    dataclasses.asdict(cfg),
    options,
  ]
  return _shared[-1].setdefault(json.dumps(key, sort_keys=True), Prepared())
