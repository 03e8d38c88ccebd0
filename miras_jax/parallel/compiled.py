"""A program compiled once, ahead of its first call, for one set of shapes."""

import time

import jax

from miras_jax.logs import log


class Program:
  """`jax.jit` function -> executable; another shape is an error, never a recompile.

  shapes: the arguments as ShapeDtypeStruct. kept: `checkpoint.executables.Kept`, where
  it may lie compiled already; devices: those it runs on, for that. `seconds` is what it
  all took.
  """

  def __init__(self, name, jitted, *shapes, kept=None, devices=None):
    self.name = name
    start = time.perf_counter()
    lowered = jitted.lower(*shapes)
    if kept:
      self._executable, done = kept.load_or_compile(name, lowered, devices)
    else:
      self._executable, done = lowered.compile(), "compiled"
    self.seconds = time.perf_counter() - start
    self._last = _signature(shapes[-1])
    log.info("%s %s in %.1f s (one XLA program)", done, name, self.seconds)

  def __call__(self, *args):
    """Runs it. ValueError when the last argument, the batch, has changed its shapes."""
    found = _signature(args[-1])
    if found != self._last:
      changed = sorted(set(found.items()) ^ set(self._last.items()))
      raise ValueError(
        f"{self.name} was compiled once for other shapes; what differs: {changed[:4]}"
      )
    return self._executable(*args)


def _signature(tree):
  return {
    jax.tree_util.keystr(path): (tuple(x.shape), str(x.dtype))
    for path, x in jax.tree_util.tree_leaves_with_path(tree)
  }
