"""Standard input, output and error, however the process was started.

They may be closed, full, a pipe that nobody reads, or of a locale of ASCII only.
"""

import io
import os
import sys

MODES = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def prepare() -> None:
  """Makes the three streams usable: call it before anything is read or printed.

  In an ASCII locale the process starts itself again in UTF-8 mode: names of files and
  every open() depend on it, too.
  """
  _open_closed()
  if _is_ascii() and sys.executable and sys.orig_argv:
    os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
    args = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    os.execv(sys.executable, args)
  for stream, errors in (
    (sys.stdin, "surrogateescape"),  # a reader says which line is no text
    (sys.stdout, "backslashreplace"),
  ):
    if hasattr(stream, "reconfigure"):
      stream.reconfigure(errors=errors)
  if isinstance(sys.stderr, io.TextIOWrapper):
    sys.stderr = Forgiving(sys.stderr)


class Forgiving:
  """Standard error whose device may be full: what is said there ends no run."""

  def __init__(self, stream):
    self._stream = stream

  def __getattr__(self, name):
    return getattr(self._stream, name)

  def write(self, text):
    try:
      return self._stream.write(text)
    except BrokenPipeError:  # whoever read it has left
      raise
    except OSError:
      return len(text)

  def flush(self):
    try:
      self._stream.flush()
    except BrokenPipeError:
      raise
    except OSError:
      pass


def finish(status: int) -> int:
  """Writes what is left to be written; the exit status, 1 where that fails."""
  try:
    sys.stdout.flush()
    return status
  except BrokenPipeError:  # whoever read it had enough
    failed = status
  except OSError as error:
    print(f"error: output: {error.strerror}", file=sys.stderr)
    failed = 1
  # Python flushes once more at its end, and would complain.
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return failed


def is_text(line: str) -> bool:
  """Whether a line of standard input was valid in its encoding."""
  return not any("\udc80" <= c <= "\udcff" for c in line)


def _open_closed():
  """Opens what is closed on /dev/null: a data file opened later must not become it."""
  for number, (name, mode) in enumerate(MODES):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, mode)  # takes the lowest free number
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))


def _is_ascii():
  return sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode
