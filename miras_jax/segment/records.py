"""Reads what `miras segment` is asked: conversations, one JSON object a line.

  {"id": "a", "image": "a.jpg", "turns": ["Where is it?", "Segment that one."]}
  {"id": "b", "image": "b.jpg", "dialogue": [{"from": "user", "value": "Where is it?"},
                                             {"from": "assistant", "value": "There."}]}

In place of `dialogue` such objects may stand under `turns`, `messages` or
`conversations`; `role` and `content` say the same as `from` and `value`.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

from input_pipeline import regular_file, safe_files
from input_pipeline.records import RecordError
from miras_jax.errors import UserError

MAX_LINE = 1 << 20  # bytes of a record
MAX_TURNS = 256
MAX_ID = 500  # characters
TURN_KEYS = ("turns", "dialogue", "messages", "conversations")
ROLES = {"user": "user", "human": "user"} | dict.fromkeys(
  ("assistant", "gpt", "model"), "assistant"
)


class Asked(NamedTuple):
  """One record. `number`: its line, from 1. `answers`: those of the dialogue, one for
  each question but perhaps the last; none where only questions were given."""

  number: int
  id: str
  image: str
  questions: tuple[str, ...]
  answers: tuple[str, ...] = ()


class Listed(NamedTuple):
  """Where a record is in its file: `read` takes it."""

  number: int
  offset: int
  id: str


def index(path, report) -> list[Listed]:
  """Sound records of a file; `report` gets a RecordError for each of the others.

  Raises UserError where the file cannot be read.
  """
  found, numbers = [], {}
  for number, offset, line in _lines(path):
    try:
      record = _parse(path, number, line)
      if record.id in numbers:
        first = numbers[record.id]
        raise RecordError(
          path, number, f"id {record.id!r} is that of line {first}, too"
        )
    except RecordError as error:
      report(error)
      continue
    numbers[record.id] = number
    found.append(Listed(number, offset, record.id))
  return found


def read(path, listed) -> Iterator[Asked]:
  """The records at places that `index` gave."""
  with _opened(path) as file:
    for place in listed:
      file.seek(place.offset)
      yield _parse(path, place.number, file.readline(MAX_LINE))


def _lines(path):
  """(number, offset, bytes) of each line that is not empty."""
  with _opened(path) as file:
    number = offset = 0
    while line := file.readline(MAX_LINE + 1):
      number += 1
      start, offset = offset, offset + len(line)
      while len(line) > MAX_LINE and not line.endswith(b"\n"):
        rest = file.readline(MAX_LINE)  # what is left of a line too long
        offset += len(rest)
        if not rest or rest.endswith(b"\n"):
          break
      if line.strip():
        yield number, start, line


def _opened(path):
  try:
    return regular_file.open_regular(path)
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}") from None


def _parse(path, number, line) -> Asked:
  try:
    return _record(number, line)
  except ValueError as error:
    raise RecordError(path, number, str(error)) from None


def _record(number, line):
  """ValueError with the reason."""
  if len(line) > MAX_LINE:
    raise ValueError(f"has more than {MAX_LINE:,} bytes")
  fields, _ = safe_files.parse_json(line)
  if not isinstance(fields, dict):
    raise ValueError(f"is a JSON {type(fields).__name__}, want an object")
  name = fields.get("id")
  if isinstance(name, int) and not isinstance(name, bool):
    name = str(name)
  name = _text(name, "id")
  if len(name) > MAX_ID:
    raise ValueError(f"id has {len(name):,} characters, the limit is {MAX_ID}")
  image = _text(fields.get("image"), "image")
  safe_files.check_relative(image)
  return Asked(number, name, image, *_turns(fields))


def _turns(fields):
  """(questions, answers)"""
  keys = [key for key in TURN_KEYS if key in fields]
  if len(keys) != 1:
    said = f"{keys[0]} and {keys[1]}" if keys else "no turns"
    raise ValueError(f"has {said}, want one list, of questions or of a dialogue")
  turns = fields[keys[0]]
  if not isinstance(turns, list) or not 0 < len(turns) <= MAX_TURNS:
    raise ValueError(f"{keys[0]} must be a list of 1 to {MAX_TURNS}")
  if all(isinstance(turn, str) for turn in turns):
    return tuple(_text(turn, f"{keys[0]}[{i}]") for i, turn in enumerate(turns)), ()
  said = [_said(turn, f"{keys[0]}[{i}]") for i, turn in enumerate(turns)]
  for i, (role, _) in enumerate(said):
    want = ("user", "assistant")[i % 2]
    if role != want:
      raise ValueError(f"{keys[0]}[{i}] is of the {role}, want the {want}")
  texts = [text for _, text in said]
  return tuple(texts[::2]), tuple(texts[1::2])


def _said(turn, name):
  """(role, text) of an object of a dialogue."""
  if not isinstance(turn, dict):
    raise ValueError(f"{name} is a JSON {type(turn).__name__}, want {{from, value}}")
  role = turn.get("from", turn.get("role"))
  if not isinstance(role, str) or role not in ROLES:
    shown = json.dumps(role)[:80]
    raise ValueError(f"{name} is from {shown}, want one of {', '.join(ROLES)}")
  return ROLES[role], _text(turn.get("value", turn.get("content")), name)


def _text(value, name):
  if not isinstance(value, str):
    kind = "missing" if value is None else f"a JSON {type(value).__name__}"
    raise ValueError(f"{name} is {kind}, want a text")
  if not value.strip():
    raise ValueError(f"{name} is empty")
  if any("\ud800" <= c <= "\udfff" for c in value):
    raise ValueError(f"{name} holds half a character (a lone surrogate)")
  return value
