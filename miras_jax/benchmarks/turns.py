"""Sides that are compared take turns, so that a machine's drift meets them alike."""

import statistics
import time
from collections.abc import Callable

from miras_jax.errors import UserError
from miras_jax.options import nearest


def take_turns(sides: dict[object, Callable], rounds: int) -> dict[object, float]:
  """{side: median seconds of a call}; one more call of each, not counted, is first."""
  seconds = {name: [] for name in sides}
  for turn in range(rounds + 1):
    for name, call in sides.items():
      start = time.perf_counter()
      call()
      if turn:
        seconds[name].append(time.perf_counter() - start)
  return {name: statistics.median(times) for name, times in seconds.items()}


def split_sides(text: str, known) -> list[str]:
  """Names of `--sides=A,B`; UserError naming one that is not known."""
  names = text.split(",")
  for name in names:
    if name not in known:
      raise UserError(f"--sides: no side {name!r}{nearest(name, known)}")
  return names
