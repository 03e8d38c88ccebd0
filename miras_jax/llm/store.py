"""Every request and its reply in one SQLite file, so that nothing is paid for twice.

A reply is committed before it is used. Of two processes that ask the same thing the
first reply stands, and both go on with it.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterable

from miras_jax.errors import UserError

VERSION = 1
WAIT_S = 60  # for another process that writes
_TABLE = """create table if not exists replies (
  key text primary key, request text not null, endpoint text not null,
  reply text not null) without rowid"""


class Store:
  """Replies by the key of their request. Any number of threads may use it.

  durable: a reply also survives a power cut; False where it costs nothing to make anew.
  """

  def __init__(self, path, *, durable: bool = True):
    self.path = path
    self._lock = threading.Lock()
    with self._errors():
      self._db = sqlite3.connect(path, timeout=WAIT_S, check_same_thread=False)
      (version,) = self._db.execute("pragma user_version").fetchone()
      if version not in (0, VERSION):
        raise UserError(
          f"{path}: is of version {version}, want {VERSION}; take another file"
        )
      if not durable:
        self._db.execute("pragma synchronous = off")
      if not version:
        self._make()

  def _make(self):
    """The table, in an empty database. One that is made is only read from here on, so
    that a replay needs no right to write."""
    with self._db:
      self._db.execute("begin immediate")  # another process may make it just now
      (version,) = self._db.execute("pragma user_version").fetchone()
      (tables,) = self._db.execute("select count(*) from sqlite_master").fetchone()
      if tables and not version:
        raise UserError(f"{self.path}: is another database; take another file")
      self._db.execute(_TABLE)
      self._db.execute(f"pragma user_version = {VERSION}")

  def get(self, key: str) -> str | None:
    """The reply to a request, None where there is none yet."""
    with self._lock, self._errors():
      found = self._db.execute("select reply from replies where key = ?", (key,))
      row = found.fetchone()
    return None if row is None else row[0]

  def put(self, key: str, request: str, endpoint: str, reply: str) -> str:
    """Keeps a reply; returns the one that stands."""
    with self._lock, self._errors():
      with self._db:
        self._db.execute(
          "insert or ignore into replies values (?, ?, ?, ?)",
          (key, request, endpoint, reply),
        )
    return self.get(key)

  def forget(self, keys: Iterable[str]) -> None:
    """Drops replies, so that their requests are asked anew."""
    with self._lock, self._errors():
      with self._db:
        rows = [(key,) for key in keys]
        self._db.executemany("delete from replies where key = ?", rows)

  def close(self):
    self._db.close()

  @contextlib.contextmanager
  def _errors(self):
    try:
      yield
    except sqlite3.Error as error:
      raise UserError(
        f"{self.path}: cannot be used as a store of replies: {error}; if it is damaged,"
        " move it away (its replies are asked for again)"
      ) from None
