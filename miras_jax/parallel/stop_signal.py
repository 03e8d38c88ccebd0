"""What asks a run to save and end, also before there is anything to save.

Python runs a handler between two lines of its own, so only after a long compile. The
byte that it writes at once (`signal.set_wakeup_fd`) is read in a thread, which answers.
"""

import contextlib
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

from miras_jax.logs import log

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
  """One of SIGNALS came before the loop listened; its text is the signal's name."""


@contextlib.contextmanager
def ends_at_once():
  """While a run is prepared, one of SIGNALS raises Stopped."""

  def heard(number, _frame):
    raise Stopped(signal.Signals(number).name)

  before = _handle(SIGNALS, heard)
  try:
    yield
  finally:
    _restore(before)


class StopSignal(threading.Event):
  """Whether to stop after this step: one of SIGNALS came, to this process or another.

  Used as a context manager; `stop(step)` is asked once a step, with the same steps in
  every process, and is then True at the same step in all of them. `name` is that of the
  signal. A second Ctrl-C ends the process at once.
  """

  name = "SIGTERM"
  _busy, _answered = "", False

  def __enter__(self):
    # With several processes jax has a handler of SIGTERM that tells the others.
    several = jax.process_count() > 1
    self._before = _handle(SIGNALS[1:] if several else SIGNALS, self._heard)
    self._watched = contextlib.ExitStack()
    if self._before:
      self._watched.enter_context(_each_signal(self._say))
    return self

  def __exit__(self, *_):
    self._watched.close()
    _restore(self._before)

  @contextlib.contextmanager
  def during(self, what):
    """While the block runs, a signal is answered in a line: it waits for `what`."""
    self._busy = what
    if self.is_set():
      self._say(signal.Signals[self.name])
    try:
      yield
    finally:
      self._busy = ""

  def _say(self, number):
    if not self._busy or number not in self._before:
      return
    if self._answered and number == signal.SIGINT:
      os._exit(130)  # no handler would run before the end of what it waits for
    if self._answered:
      return
    self._answered = True
    name = signal.Signals(number).name
    log.warning("%s: stops after %s; nothing new to save yet", name, self._busy)

  def _heard(self, number, _frame):
    if self.is_set() and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.name = signal.Signals(number).name
    if jax.process_count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)
      return
    self.set()

  def __call__(self, step):
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self.set()
    return self.is_set()


def _handle(numbers, handler):
  """Sets a handler of signals -> {number: the one before}. Only the main thread can."""
  if threading.current_thread() is not threading.main_thread():
    return {}
  free = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]  # nohup
  return {number: signal.signal(number, handler) for number in free}


def _restore(before):
  for number, handler in before.items():
    signal.signal(number, handler)


@contextlib.contextmanager
def _each_signal(call):
  """Calls `call(number)` in a thread as soon as a signal with a handler comes."""
  out, into = os.pipe()
  os.set_blocking(into, False)
  before = signal.set_wakeup_fd(into, warn_on_full_buffer=False)

  def read():
    while numbers := os.read(out, 1):
      call(numbers[0])

  thread = threading.Thread(target=read, daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(into)
    thread.join()
    os.close(out)
