"""How fast is asked: so many a minute, and nothing while a server wants rest."""

import threading
import time


class Stopped(Exception):
  """The run ends: what has not been sent is not sent any more."""


class Pace:
  """Slots in time that threads take before they send."""

  def __init__(self, per_minute: float | None = None):
    self.stop = threading.Event()
    self._gap = 60 / per_minute if per_minute else 0.0
    self._lock = threading.Lock()
    self._next = 0.0  # time.monotonic() of the next free slot
    self._rest_until = 0.0

  def wait(self) -> None:
    """Returns when it is this thread's turn. Raises Stopped."""
    with self._lock:
      slot = max(self._next, time.monotonic())
      self._next = slot + self._gap
    while (left := max(slot, self._rest_until) - time.monotonic()) > 0:
      if self.stop.wait(left):
        break
    if self.stop.is_set():
      raise Stopped

  def rest(self, seconds: float) -> None:
    """Nobody sends for so long: a server said that it is too much."""
    with self._lock:
      self._rest_until = max(self._rest_until, time.monotonic() + seconds)

  def sleep(self, seconds: float) -> None:
    """`time.sleep` that ends with the run."""
    self.stop.wait(seconds)
