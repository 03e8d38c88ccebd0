"""Ctrl-C while an answer is under way.

Python raises KeyboardInterrupt wherever it is, also in callbacks of libraries that
print and swallow it. So it is noted, and looked at between two tokens; a second one,
for what takes too long to get there, is raised.
"""

import contextlib
import signal
import threading


class Noted:
  """`with Noted() as stop: ... if stop.asked: ...`"""

  asked = False

  def __enter__(self):
    self._undo = contextlib.ExitStack()
    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
      self._undo.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
      signal.signal(signal.SIGINT, self._note)
    return self

  def __exit__(self, *_):
    self._undo.close()

  def _note(self, number, frame):
    if self.asked:
      raise KeyboardInterrupt
    self.asked = True
