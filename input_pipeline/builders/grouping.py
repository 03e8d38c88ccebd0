"""Items of a list of any size by a key, in a temporary database, not in memory."""

import contextlib
import itertools
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def grouped(pairs: Iterable[tuple[str, object]]) -> Iterator["Groups"]:
  """(key, JSON-able value) pairs -> Groups, values of a key in their order."""
  with tempfile.TemporaryDirectory() as folder:
    database = sqlite3.connect(os.path.join(folder, "groups.sqlite"))
    try:
      database.execute("PRAGMA journal_mode = OFF")
      database.execute("PRAGMA synchronous = OFF")
      database.execute("CREATE TABLE items (key TEXT, value TEXT)")
      rows = ((str(key), json.dumps(value)) for key, value in pairs)
      database.executemany("INSERT INTO items VALUES (?, ?)", rows)
      database.execute("CREATE INDEX by_key ON items (key)")
      yield Groups(database)
    finally:
      database.close()


class Groups:
  """Values by key."""

  def __init__(self, database):
    self._database = database

  def __getitem__(self, key) -> list:
    """The values of a key, [] for an unknown one."""
    query = "SELECT value FROM items WHERE key = ? ORDER BY rowid"
    return [
      json.loads(value) for (value,) in self._database.execute(query, (str(key),))
    ]

  def __iter__(self) -> Iterator[tuple[str, list]]:
    """(key, values), sorted by key as text."""
    rows = self._database.execute("SELECT key, value FROM items ORDER BY key, rowid")
    for key, group in itertools.groupby(rows, key=lambda row: row[0]):
      yield key, [json.loads(value) for _, value in group]
