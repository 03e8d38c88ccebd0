"""A process that attacks readers, and the eye on it: time, memory, sudden death."""

import multiprocessing
import os
import pathlib
import random
import shutil
import time
import traceback

from miras_jax.benchmarks.attacks import busy

LIMIT_S = 20
LIMIT_BYTES = 1 << 30
LOOK_S = 0.05
START_S = 300  # imports, on a busy machine
_PROCESSES = multiprocessing.get_context("spawn")


class Worker:
  """Runs attempts in a process of its own; a new one after each that went wrong.

  serve: what that process runs, `serve(pipe, root)`.
  """

  def __init__(self, root, *, serve=None, limit_s=LIMIT_S, limit_bytes=LIMIT_BYTES):
    self._root, self._serve = str(root), serve or serve_readers
    self._limit_s, self._limit_bytes = limit_s, limit_bytes
    self._process = None

  def attempt(self, kind, seed) -> tuple[str, str]:
    """(outcome, what went wrong): "read", "refused", or a failure's name."""
    if self._process is None:
      self._start()
    self._pipe.send((kind, seed))
    start, most = time.monotonic(), 0
    waited = busy.waited_s(self._process.pid)
    try:
      while not self._pipe.poll(LOOK_S):
        most = max(most, self._memory())
        own_s = time.monotonic() - start
        own_s -= busy.waited_s(self._process.pid) - waited
        if own_s > self._limit_s:
          return self._end("hang", f"more than {self._limit_s} s")
        if most > self._limit_bytes:
          return self._end("memory", f"{most >> 20} MB")
      return self._pipe.recv()
    except EOFError:
      self._process.join()
      return self._end("died", f"exit status {self._process.exitcode}")

  def close(self):
    if self._process is not None:
      self._end("", "")

  def _start(self):
    self._pipe, other = _PROCESSES.Pipe()
    self._process = _PROCESSES.Process(target=self._serve, args=(other, self._root))
    self._process.start()
    other.close()
    if not self._pipe.poll(START_S):
      raise RuntimeError("the attacking process does not start")
    self._pipe.recv()

  def _end(self, outcome, text):
    self._process.kill()
    self._process.join()
    self._process = None
    return outcome, text

  def _memory(self):
    try:
      text = pathlib.Path(f"/proc/{self._process.pid}/statm").read_text()
      return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
      return 0


def serve_readers(pipe, root):
  """Attempts of `readers`, one (kind, seed) after the other, until the pipe closes."""
  from miras_jax.benchmarks.attacks import readers

  quiet = os.open(os.devnull, os.O_WRONLY)
  os.dup2(quiet, 1)
  os.dup2(quiet, 2)
  pipe.send("ready")
  folder = pathlib.Path(root) / "attempt"
  while True:
    try:
      kind, seed = pipe.recv()
    except EOFError:
      return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
      outcome = readers.attempt(kind, folder, random.Random(seed)), ""
    except BaseException as error:  # whatever it is, it is no sentence for a user
      where = traceback.extract_tb(error.__traceback__)[-1]
      place = f"{pathlib.Path(where.filename).name}:{where.lineno}"
      outcome = "crash", f"{type(error).__name__} at {place}: {str(error)[:120]}"
    pipe.send(outcome)
