"""Files of strangers: regular ones only, and never more bytes than they may have.

A FIFO, or a link to /dev/zero, under the name of a file that we look for has no end; a
copy made without Git LFS holds a note in place of the file. Each is one line here.
"""

import json
import os
import pathlib
import stat

from miras_jax.errors import UserError

LFS_NOTE = b"version https://git-lfs.github.com/spec/"
SMALL_JSON = 16 << 20
# fmt: off
_KINDS = (
  (stat.S_ISDIR, "a folder"),         (stat.S_ISFIFO, "a FIFO"),
  (stat.S_ISCHR, "a device"),         (stat.S_ISBLK, "a device"),
  (stat.S_ISSOCK, "a socket"),
)
# fmt: on


def is_there(path):
  """Whether the folder has such a name, be it of a link that leads nowhere."""
  return os.path.lexists(path)


def open_regular(path):
  """`open(path, "rb")`. OSError as `open`; UserError for what is no regular file or
  only a pointer of Git LFS."""
  descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
  try:
    check_regular(path, os.fstat(descriptor).st_mode)
    if os.pread(descriptor, len(LFS_NOTE), 0) == LFS_NOTE:
      raise UserError(
        f"{path}: is a pointer of Git LFS, not the file itself; fetch that with `git"
        " lfs pull` in its repository, or download it anew"
      )
  except BaseException:
    os.close(descriptor)
    raise
  return os.fdopen(descriptor, "rb")


def check_regular(path, mode):
  """UserError unless `mode`, as `os.stat` gives it, is of a regular file."""
  if not stat.S_ISREG(mode):
    kind = next((name for test, name in _KINDS if test(mode)), "something else")
    raise UserError(f"{path}: is {kind}, want a regular file")


def read_bytes(path, limit):
  """All bytes of a regular file. OSError; UserError for more than `limit`."""
  with open_regular(path) as file:
    size = os.fstat(file.fileno()).st_size
    data = b"" if size > limit else file.read(limit + 1)
  if max(size, len(data)) > limit:
    raise UserError(
      f"{path}: has {max(size, len(data)):,} bytes, want at most {limit:,}"
    )
  return data


def read_object(path, limit=SMALL_JSON):
  """The JSON object in a file, {} without the file. UserError for anything else."""
  if not is_there(path):
    return {}
  try:
    found = json.loads(read_bytes(path, limit))
  except (OSError, ValueError, RecursionError) as error:
    why = getattr(error, "strerror", None) or error
    raise UserError(f"{path}: cannot be read as JSON: {why}") from None
  if not isinstance(found, dict):
    raise UserError(f"{path}: holds {type(found).__name__}, want an object")
  return found


def check_folder(folder, names):
  """UserError unless each of the names that a folder has is a regular file."""
  for name in names:
    path = pathlib.Path(folder) / name
    if not is_there(path):
      continue
    try:
      open_regular(path).close()
    except OSError as error:
      raise UserError(f"{path}: cannot be read: {error.strerror}") from None
