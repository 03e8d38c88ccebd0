"""One writer a folder: a second command into it learns who holds it.

The lock is the kernel's (`flock` on FOLDER/.lock), so that it ends with its process,
however that ends; the file only says whose it is. In a bucket it is a lease.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import time

from miras_jax.errors import UserError
from miras_jax.parallel import distributed
from miras_jax.storage import copies, lease, reach

NAME = ".lock"


@contextlib.contextmanager
def hold(folder, command: str):
  """Holds `folder` for `command` ("miras train") while the block runs.

  The folder must be there. Raises UserError naming the process that holds it.
  """
  if reach.is_remote(folder):
    with lease.hold(folder, command):
      yield
    return
  path = pathlib.Path(folder) / NAME
  try:
    file = open(path, "a+", encoding="utf-8")
  except OSError as error:
    raise UserError(f"{folder}: cannot be written to: {error.strerror}") from error
  with file:
    # A file system without locks is as good as before there were any.
    with contextlib.suppress(OSError):
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        text = f"{folder} is in use by {_read(path)}; wait for its end"
        raise UserError(text) from None
      file.truncate(0)
      file.write(json.dumps(_me(command)) + "\n")
      file.flush()
    yield


@contextlib.contextmanager
def hold_together(folder, command: str, make=None):
  """`hold` by the first process for all of them; each gets the error if it fails.

  make: makes the folder first, may raise UserError.
  """
  if (place := copies.place_of(folder)) and distributed.count() > 1:
    raise UserError(
      f"{place}: each of several processes would write a copy of its own; take a folder"
      " that all of them see"
    )
  with contextlib.ExitStack() as stack:
    problem = None
    if distributed.is_first():
      try:
        if make:
          make()
        stack.enter_context(hold(folder, command))
      except UserError as error:
        problem = error
    if distributed.of_first(problem is not None):
      raise problem or UserError(f"{folder}: process 0 cannot use it")
    yield


def holder(folder) -> str:
  """Who holds `folder`, as one phrase; "" when nobody does."""
  if reach.is_remote(folder):
    return lease.holder(folder)
  path = pathlib.Path(folder) / NAME
  try:
    with open(path, encoding="utf-8") as file:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return _read(path)
  except OSError:
    pass
  return ""


def _me(command):
  return {
    "command": command,
    "host": socket.gethostname(),
    "pid": os.getpid(),
    "since": time.strftime("%Y-%m-%d %H:%M:%S"),
  }


def _read(path):
  try:
    who = json.loads(path.read_text(encoding="utf-8"))
    return (
      f"`{who['command']}` (process {who['pid']} on {who['host']}, since"
      f" {who['since']})"
    )
  except (OSError, ValueError, KeyError, TypeError):
    return "another process"
