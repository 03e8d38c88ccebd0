"""The parts of a published file's entry, checked: texts, numbers, lists.

Every function raises ValueError with a reason fit for the end of a problem line.
"""

from collections.abc import Iterable, Iterator

from input_pipeline.builders.grouping import Groups
from input_pipeline.prist_dialogue import MAX_TURN_CHARACTERS
from input_pipeline.records import OBJ_TOKEN, SEG_TOKEN, RecordError

ERRORS = ""  # the key of a group that holds errors, beside those of photographs


def text(entry, key: str, limit: int = MAX_TURN_CHARACTERS) -> str:
  """A text that says something, without the spaces around it."""
  value = entry.get(key)
  if not isinstance(value, str):
    raise ValueError(f"{key} is {kind(entry, key)}, want a text")
  return said(value, key, limit)


def said(value: str, what: str, limit: int = MAX_TURN_CHARACTERS) -> str:
  """`value` without the spaces around it, where it says something."""
  if not value.strip():
    raise ValueError(f"{what} is empty")
  if len(value) > limit:
    raise ValueError(f"{what} has {len(value):,} characters, the limit is {limit:,}")
  try:
    value.encode()
  except UnicodeEncodeError:
    raise ValueError(f"{what} holds half a character (unpaired surrogate)") from None
  return value.strip()


def answer(value: str, what: str) -> str:
  """`said`, of a text that becomes part of an answer: no control token in it."""
  for token in (SEG_TOKEN, OBJ_TOKEN):
    if token in value:
      raise ValueError(f"{what} holds {token}, which is no text in an answer")
  return said(value, what)


def whole(entry, key: str) -> int:
  """A whole number of at most 15 digits."""
  value = entry.get(key)
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 10**15:
    raise ValueError(f"{key} is {kind(entry, key)}, want a whole number")
  return value


def listed(entry, key: str, limit: int = 10_000) -> list:
  """A list of at most `limit` items."""
  value = entry.get(key)
  if not isinstance(value, list | tuple):
    raise ValueError(f"{key} is {kind(entry, key)}, want a list")
  if len(value) > limit:
    raise ValueError(f"{key} has {len(value):,} items, the limit is {limit:,}")
  return list(value)


def mapping(value, what: str) -> dict:
  """`value`, where it is an object."""
  if not isinstance(value, dict):
    raise ValueError(f"{what} is a {type(value).__name__}, want an object")
  return value


def kind(entry, key: str) -> str:
  return f"a {type(entry[key]).__name__}" if key in entry else "missing"


def class_name(name: str) -> str:
  """`car_(automobile)` as one says it: "car"."""
  return name.split("_(")[0].replace("_", " ").strip() or name.strip()


def as_pairs(entries: Iterable) -> Iterator[tuple[str, object]]:
  """(key, value) pairs for `grouping.grouped`, RecordErrors among them kept in order.

  So that a file with a defect in every entry takes no more memory than a sound one.
  """
  for entry in entries:
    if isinstance(entry, RecordError):
      yield ERRORS, [entry.file, entry.record, entry.reason]
    else:
      yield entry


def errors(groups: Groups) -> Iterator[RecordError]:
  """The errors of `as_pairs`."""
  return (RecordError(*values) for values in groups[ERRORS])
