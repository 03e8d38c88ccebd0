"""Work on many items by threads: results in order, the first error ends it."""

import queue
import threading
from collections.abc import Callable, Iterable

GRACE_S = 10  # for answers under way when another one fails: they may have been paid


def work(
  do: Callable, items: Iterable, threads: int, stop: threading.Event, tick=lambda: None
) -> list:
  """[do(item) for item in items], several at a time.

  stop: set when the work ends early, for those who wait in `do`. tick: called after
  each item. Threads are daemons, so that Ctrl-C need not wait for a server.
  """
  items = list(items)
  finished, lock, left = queue.SimpleQueue(), threading.Lock(), iter(enumerate(items))

  def labour():
    while not stop.is_set():
      with lock:
        i, item = next(left, (None, None))
      if i is None:
        return
      try:
        finished.put((i, do(item), None))
      except BaseException as error:  # the main thread raises it
        finished.put((i, None, error))
        return

  count = min(threads, len(items))
  crew = [threading.Thread(target=labour, daemon=True) for _ in range(count)]
  for thread in crew:
    thread.start()
  try:
    return _collect(finished, len(items), tick)
  except Exception:
    stop.set()
    for thread in crew:
      thread.join(GRACE_S)
    raise
  except BaseException:
    stop.set()
    raise


def _collect(finished, count, tick):
  results = [None] * count
  for _ in range(count):
    i, result, error = finished.get()
    if error is not None:
      raise error
    results[i] = result
    tick()
  return results
