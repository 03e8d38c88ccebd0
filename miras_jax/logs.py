"""The log of the package: lines on stderr, above any progress bar."""

import functools
import logging
import sys
import threading

import tqdm

log = logging.getLogger("miras_jax")


def to_stderr() -> None:
  """Lines of `log` and of the data pipeline, above the progress bar.

  Orbax logs each error of its threads with a traceback and raises it later: once is
  enough.
  """
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  for name in ("miras_jax", "input_pipeline"):
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not logger.handlers:
      logger.addHandler(_AboveBar())


def of_process(index) -> None:
  """Processes other than the first say only what is wrong, and which one they are."""
  if not index:
    return
  for name in ("miras_jax", "input_pipeline"):
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
      handler.setFormatter(logging.Formatter(f"process {index}: %(message)s"))


@functools.cache
def hush(text) -> None:
  """Drops errors of other libraries' threads that say `text`."""
  unraisable, uncaught = sys.unraisablehook, sys.excepthook

  def on_unraisable(what):
    if text not in str(what.exc_value):
      unraisable(what)

  def on_uncaught(kind, value, traceback):
    here = threading.current_thread() is threading.main_thread()
    if here or text not in str(value):  # our own errors are never dropped
      uncaught(kind, value, traceback)

  sys.unraisablehook, sys.excepthook = on_unraisable, on_uncaught


class _AboveBar(logging.Handler):
  def emit(self, record):
    tqdm.tqdm.write(self.format(record), file=sys.stderr)
