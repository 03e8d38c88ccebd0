"""Sides that are compared take turns, so that a machine's drift meets them alike."""

import statistics
import time
from collections.abc import Callable

from miras_jax.errors import UserError
from miras_jax.options import nearest

# cpu: of all threads of this process; where others use the machine too, bind it to one
# core beside (`taskset -c 0`), else threads that wait for each other count.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def take_turns(
  sides: dict[object, Callable], rounds: int, clock="wall"
) -> dict[object, float]:
  """{side: median seconds of a call}; one more call of each, not counted, is first.

  clock: one of CLOCKS.
  """
  seconds, now = {name: [] for name in sides}, CLOCKS[clock]
  for turn in range(rounds + 1):
    for name, call in sides.items():
      start = now()
      call()
      if turn:
        seconds[name].append(now() - start)
  return {name: statistics.median(times) for name, times in seconds.items()}


def split_sides(text: str, known) -> list[str]:
  """Names of `--sides=A,B`; UserError naming one that is not known."""
  names = text.split(",")
  for name in names:
    if name not in known:
      raise UserError(f"--sides: no side {name!r}{nearest(name, known)}")
  return names
