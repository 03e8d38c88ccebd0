"""Ratings by people: the CSV of a rating page, or one written by hand.

Columns `rater, item, question, value` with the page's key file, as `miras judge page`
makes them; or `rater, id, question, value` and, where there are several systems,
`system`. question: a criterion of the rubric (value 1 to 5), or `winner` (value: first,
second or tie of the page; by hand the name of a system, or tie).
"""

import csv
import io
import json
import pathlib

from input_pipeline import regular_file
from input_pipeline.records import RecordError
from miras_jax.errors import UserError
from miras_jax.judge.conversations import GOLD, System
from miras_jax.judge.ratings import HUMAN, WINNER, Rating
from miras_jax.judge.rubric import FIRST, LEVELS, SECOND, TIE, Rubric
from miras_jax.options import nearest

KEY = "page_key.json"
MAX_BYTES = 64 << 20
MAX_NAME = 100  # letters of a rater's


def rubric_of(rubric: Rubric) -> dict:
  """What a key file knows a rubric by."""
  return {"name": rubric.name, "version": rubric.version}


def identity(system: System) -> dict:
  """What a key file knows a system by: its file may lie elsewhere by then."""
  return {"sha256": system.digest, "gold": system.name == GOLD}


def read(path, key_path, systems: list[System], rubric: Rubric) -> list[Rating]:
  """Ratings of a CSV. Raises UserError, RecordError naming the row.

  key_path: of the page's key; None for the one beside the CSV.
  """
  rows = _rows(path)
  columns = _columns(path, rows)
  items = None
  if "item" in columns:
    items = _items(path, key_path, systems, rubric)
  reader = _Reader(systems, rubric.criteria, items)
  found, seen = [], {}
  for number, row in enumerate(rows, 2):
    try:
      rating = reader.rating(row)
    except ValueError as error:
      raise RecordError(path, number, str(error)) from None
    place = rating._replace(value=0)
    if place in seen:
      raise RecordError(path, number, f"rates what row {seen[place]} rates")
    seen[place] = number
    found.append(rating)
  return found


def _columns(path, rows):
  """The names of the columns. UserError without those that are needed."""
  names = list(rows[0])
  for name in ("rater", "question", "value"):
    if name not in names:
      raise UserError(
        f"{path}: lacks the column {name}: its first line is"
        f" {','.join(names)[:100]!r}; columns are parted by commas, and are rater,"
        " question, value and item (of a page) or id"
      )
  if not {"item", "id"} & set(names):
    raise UserError(f"{path}: lacks the column item (of a page) or id")
  return set(names)


class _Reader:
  """Rows to ratings. items: {code: (systems as shown, id)} of a page, None without."""

  def __init__(self, systems, criteria, items):
    self._systems = {s.name: s for s in systems}
    self._order = [s.name for s in systems]
    self._criteria, self._items = criteria, items

  def rating(self, row) -> Rating:
    """ValueError with the reason."""
    rater = row["rater"].strip()
    if not 0 < len(rater) <= MAX_NAME:
      raise ValueError(f"rater has {len(rater)} letters, want 1 to {MAX_NAME}")
    if not rater.isprintable():
      raise ValueError(f"rater {rater!r} holds a character that cannot be shown")
    question, value = row["question"].strip(), row["value"].strip()
    if question != WINNER and question not in self._criteria:
      known = nearest(question, [*self._criteria, WINNER])
      raise ValueError(f"question {question!r} is none of the rubric{known}")
    shown, name = self._place(row, question)
    conversation = self._systems[shown[0]].conversations.get(name)
    if conversation is None:
      raise ValueError(f"{name!r} is no conversation of {shown[0]}")
    result = self._winner(shown, value) if question == WINNER else _level(value)
    image = conversation.image or name
    if question == WINNER and self._order.index(shown[0]) > self._order.index(shown[1]):
      shown, result = shown[::-1], -result
    return Rating(HUMAN + rater, question, shown, name, image, result)

  def _place(self, row, question):
    """(systems as they were shown, id of the conversation)."""
    wanted = 2 if question == WINNER else 1
    if self._items is not None:
      if row["item"] not in self._items:
        raise ValueError(f"item {row['item']!r} is not of this page's key")
      shown, name = self._items[row["item"]]
      if len(shown) != wanted:
        raise ValueError(f"item {row['item']!r} does not ask for {question}")
      return shown, name
    if wanted == 2:
      if len(self._order) != 2:
        raise ValueError("winner by hand needs two systems; use a rating page")
      return tuple(self._order), row["id"]
    system = row.get("system") or self._order[0]
    if system not in self._systems:
      raise ValueError(f"system {system!r}{nearest(system, self._order)}")
    return (system,), row["id"]

  def _winner(self, shown, value):
    words = {FIRST: 1, SECOND: -1, TIE: 0}
    if self._items is None:
      words = {shown[0]: 1, shown[1]: -1, TIE: 0}
    if value not in words:
      raise ValueError(f"winner {value!r}, want one of {', '.join(words)}")
    return words[value]


def _level(value):
  if value not in map(str, LEVELS):
    raise ValueError(f"value {value!r}, want a whole number from 1 to 5")
  return int(value)


def _rows(path):
  try:
    data = regular_file.read_bytes(pathlib.Path(path), MAX_BYTES)
    text = data.decode("utf-8-sig")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows, names = list(reader), reader.fieldnames or []
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}") from None
  except (UnicodeDecodeError, csv.Error) as error:
    raise UserError(f"{path}: is no CSV in UTF-8: {error}") from None
  if not rows:
    raise UserError(f"{path}: holds no ratings")
  if twice := next((name for name in names if names.count(name) > 1), None):
    raise UserError(f"{path}: has two columns {twice!r}; leave one of them")
  for number, row in enumerate(rows, 2):
    if None in row or None in row.values():
      raise RecordError(
        path, number, "has another number of columns than the first row"
      )
  return rows


def _items(path, key_path, systems, rubric):
  """{code: (names of the systems as shown, id)} of a page's key."""
  key_path = pathlib.Path(key_path or pathlib.Path(path).with_name(KEY))
  if not regular_file.is_there(key_path):
    raise UserError(f"{path}: needs {key_path} of its page (--key=FILE)")
  known = {json.dumps(identity(s), sort_keys=True): s.name for s in systems}
  found = {}
  try:
    key = regular_file.read_object(key_path, MAX_BYTES)
    if key["rubric"] != rubric_of(rubric):
      raise UserError(
        f"{key_path}: its page asked by the rubric {key['rubric']}, not by"
        f" {rubric_of(rubric)}; give that one as --rubric"
      )
    for item in key["items"]:
      shown = [known.get(json.dumps(s, sort_keys=True)) for s in item["systems"]]
      if None in shown or not shown:
        raise UserError(
          f"{key_path}: is of other predictions than --predictions and --against; give"
          " those of the page"
        )
      if item["item"] in found or not isinstance(item["id"], str):
        raise TypeError(f"item {item['item']!r} is there twice or has no id")
      found[item["item"]] = (tuple(shown), item["id"])
  except (KeyError, TypeError) as error:
    raise UserError(f"{key_path}: is no key of a rating page ({error})") from None
  return found
