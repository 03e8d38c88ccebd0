"""Reads files that a data set names, without trusting the names or the sizes.

Every function raises ValueError with a reason fit for the end of a problem line;
FileNotFoundError stays what it is.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import stat
import sys

MAX_IMAGE_BYTES = 256 * 2**20
MAX_LIST_BYTES = 64 * 2**20
MAX_MASK_BYTES = 32 * 2**20  # of a labelme file without the photograph inside
MAX_FILE_BYTES = 512 * 2**20  # of a labelme file with it
MAX_NAME = 1024  # characters
# Of a JSON text: what is parsed takes up to 30 times the memory of its bytes.
MAX_JSON_GROUPS = 5_000_000
MAX_JSON_VALUES = 10_000_000
_BLOCK, _PIECE = 1 << 20, 1 << 16
_LONGEST_KEY = 256  # bytes, with the space around its colon


class TooLarge(ValueError):
  """A file with more bytes or values than are read at once."""


def check_relative(name):
  """Raises ValueError unless `name` is a relative path that never climbs."""
  if not name.strip():
    raise ValueError("is empty")
  if len(name) > MAX_NAME:
    raise ValueError(f"has {len(name):,} characters, the limit is {MAX_NAME:,}")
  if "\0" in name:
    raise ValueError(f"{name!r} contains a NUL character")
  parts = re.split(r"[/\\]", name)
  if not parts[0] or re.match(r"[A-Za-z]:", name):
    raise ValueError(f"{name!r} is an absolute path, want one relative to its folder")
  if ".." in parts:
    raise ValueError(f"{name!r} leaves its folder")


def forward(name):
  """A relative path of Windows as one of everywhere: a backslash separates."""
  return name.replace("\\", "/")


def resolve_inside(folder, name):
  """The real path of `name` in `folder`; a symlink that points outside is refused."""
  check_relative(name)
  real_folder = os.path.realpath(folder)
  real = os.path.realpath(os.path.join(real_folder, name))
  if os.path.commonpath([real_folder, real]) != real_folder:
    raise ValueError(f"{name!r} is a link that leaves its folder")
  return pathlib.Path(real)


def read_bytes(path, limit):
  """The content of a regular file of at most `limit` bytes."""
  with opened(path, limit) as file:
    return file.read()


def read_without_text(path, key, limit):
  """The content of a JSON file, with the text at `key` emptied wherever it occurs.

  Such a text may be as long as MAX_FILE_BYTES allows and is never held in memory; the
  rest is at most `limit` bytes.
  """
  opening = re.compile(rb'"%s"\s{0,64}:\s{0,64}"' % key.encode())
  kept, block = bytearray(), b""
  with opened(path, MAX_FILE_BYTES) as file:
    while more := file.read(_BLOCK):
      block, at = block + more, 0
      while found := opening.search(block, at):
        kept += block[at : found.end()]
        block, at = _pass_text(block, found.end(), file)
      tail = max(at, len(block) - _LONGEST_KEY)  # may hold half a key
      kept += block[at:tail]
      block = block[tail:]
      if len(kept) > limit:
        raise ValueError(f"has more than {limit:,} bytes beside {key!r}")
  return bytes(kept + block)


def _pass_text(block, at, file):
  """(a block, where in it the JSON text ends that goes on at `at`): this or a later
  one of the file; an empty one where the text never ends."""
  size = 64
  while block:
    piece = block[at : at + size]
    plain = piece.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    if (end := plain.find(b'"')) >= 0:
      return block, at + end
    at += len(piece) + plain.endswith(b"\\")  # which escapes what comes next
    size = min(2 * size, _PIECE)
    if at >= len(block):
      at, block = at - len(block), file.read(_BLOCK)
  return b"", 0


@contextlib.contextmanager
def opened(path, limit=sys.maxsize):
  """A regular file of at most `limit` bytes, opened."""
  try:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
      raise ValueError("is not a regular file")
    if status.st_size > limit:
      raise TooLarge(f"has {status.st_size:,} bytes, more than the limit {limit:,}")
    with open(path, "rb") as file:
      yield file
  except (FileNotFoundError, NotADirectoryError):
    raise FileNotFoundError(str(path)) from None
  except OSError as e:
    raise ValueError(f"cannot be read: {e.strerror or e}") from None


def parse_json(data, *, fallback_encoding=None):
  """Parses bytes as JSON; returns (value, keys that occurred twice in one object).

  UTF-8 with or without a byte order mark; the labelme files of the published loader
  may be cp1252 (`fallback_encoding`). Of a key given twice the last value counts.
  """
  repeated = []

  def pairs_to_dict(pairs):
    out = dict(pairs)
    if len(out) != len(pairs):
      counts = collections.Counter(k for k, _ in pairs)
      repeated.extend(k for k, n in counts.items() if n > 1)
    return out

  _check_number(data, (b"[", b"{"), MAX_JSON_GROUPS, "lists and objects")
  _check_number(data, (b",",), MAX_JSON_VALUES, "values")
  text = _decode(data, fallback_encoding)
  if not text.strip():
    raise ValueError("is empty")
  try:
    return json.loads(text, object_pairs_hook=pairs_to_dict), repeated
  except json.JSONDecodeError as e:
    hint = " (JSON lines? one list is needed)" if e.msg == "Extra data" else ""
    where = f"line {e.lineno} column {e.colno}"
    raise ValueError(f"is not valid JSON: {e.msg} at {where}{hint}") from None
  except RecursionError:
    raise ValueError("is not valid JSON: nested too deeply") from None
  except ValueError:
    raise ValueError("is not valid JSON: a number has too many digits") from None


def repeated_notes(keys):
  """What `parse_json` found twice, in words."""
  return [
    f"key {k!r} is given twice in one object; the last value counts"
    for k in sorted(set(keys))
  ]


def is_text(name):
  """Whether a file's name, as the system gives it, is UTF-8."""
  try:
    return bool(name.encode())
  except UnicodeEncodeError:  # bytes of another encoding, as lone surrogates
    return False


def is_utf8(data):
  try:
    return data.isascii() or bool(data.decode("utf-8-sig"))
  except UnicodeDecodeError:
    return False


def _check_number(data, signs, limit, what):
  """ValueError where a text has more of some signs than `limit`."""
  if sum(map(data.count, signs)) > limit:
    raise TooLarge(f"holds more than {limit:,} {what}")


def _decode(data, fallback_encoding):
  try:
    return data.decode("utf-8-sig")
  except UnicodeDecodeError as e:
    reason = f"is not UTF-8: {e.reason} at byte {e.start}"
  if fallback_encoding:
    try:
      return data.decode(fallback_encoding)
    except UnicodeDecodeError:
      reason = f"is neither UTF-8 nor {fallback_encoding}"
  raise ValueError(reason)
