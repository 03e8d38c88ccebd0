"""Where the time of a run goes, by cause, over all of its lives.

A life is a process from its start to its end, be that a signal or `kill -9`. Each has a
line in WORKDIR/goodput.jsonl, written anew at every save:

  {"began": s, "until": s, "step": n, "seconds": {cause: s, ...}}

began, until: seconds since 1970. step: the last one that is saved. Causes:

  step            what the run is for: everything that is none of the others
  initialisation  from the start of the process: imports, data, parameters
  restore         reading the checkpoint
  compile         XLA
  data_wait       training waits for a batch
  save            training waits for a save
  lost_work       of the life before: between its last save and its end
  idle            between the end of the life before and the start of this one

When a killed life ended is when it last wrote to metrics.jsonl, where that is known
(not in a bucket: all of the gap is idle there). With several processes this is the
first one's time; the others wait for it as it waits for them.
"""

import contextlib
import json
import math
import os
import pathlib
import time
from typing import NamedTuple

from input_pipeline import regular_file
from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError

FILE = "goodput.jsonl"
CAUSES = (
  "step", "initialisation", "restore", "compile", "data_wait", "save", "lost_work",
  "idle",
)  # fmt: skip
MOST_LIVES = 100_000
_MOST_LINE = 4096  # characters
_NO_LIFE = (
  ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


class Life(NamedTuple):
  """One line of the file."""

  began: float
  until: float
  step: int
  seconds: dict[str, float]


class Goodput:
  """The account of one life, and of those before it.

  metrics: path of metrics.jsonl; the account is beside it. age: seconds since the
  process started. alive_until: when the life before last wrote, seconds since 1970; 0
  where nobody knows. enabled: whether this process writes. clock, now: seconds of a
  clock that never jumps, and since 1970.
  """

  def __init__(
    self,
    metrics,
    *,
    age=0.0,
    alive_until=0.0,
    enabled=True,
    clock=time.perf_counter,
    now=time.time,
  ):
    self._file = pathlib.Path(metrics).with_name(FILE)
    self._enabled, self._clock, self._now = enabled, clock, now
    self._start = clock() - age
    self._began = now() - age
    self._spent = dict.fromkeys(CAUSES, 0.0)
    self._training_from = None
    self.lives = read(self._file) if enabled else []
    self._before = add(life.seconds for life in self.lives)
    if self.lives:
      self._add_gap(self.lives[-1].until, alive_until)

  def _add_gap(self, until, ended):
    """What lies between the last life's last save and this life's start."""
    ended = min(max(until, ended), self._began)
    self._spent["lost_work"] = max(ended - until, 0.0)
    self._spent["idle"] = max(self._began - ended, 0.0)

  def spend(self, cause, seconds):
    """Books so many seconds."""
    self._spent[cause] += seconds

  @contextlib.contextmanager
  def during(self, cause):
    """Books the time of the block."""
    start = self._clock()
    try:
      yield
    finally:
      self.spend(cause, self._clock() - start)

  def begin(self):
    """A step is about to be made; what came before the first is initialisation."""
    if self._training_from is not None:  # a later stage
      return
    self._training_from = self._clock()
    known = sum(self._spent[c] for c in ("restore", "compile", "data_wait", "save"))
    rest = self._training_from - self._start - known
    self._spent["initialisation"] = max(rest, 0.0)

  def seconds(self) -> dict[str, float]:
    """Seconds of this life so far by cause, with the gap before it."""
    spent = dict(self._spent)
    here = self._clock() - self._start
    if self._training_from is None:
      spent["initialisation"] = max(here - _inside(spent), 0.0)
    else:
      spent["step"] = max(here - _inside(spent), 0.0)
    return spent

  def save(self, step):
    """Writes the account; what is done up to here is not lost any more."""
    if not self._enabled:
      return
    life = Life(self._began, self._now(), step, self.seconds())
    lines = "".join(
      json.dumps(x._asdict()) + "\n" for x in (*self.lives[-MOST_LIVES:], life)
    )
    with contextlib.suppress(OSError):  # a full disk: the account only tells
      workdir.write_atomically(self._file, lines)

  def useful(self) -> float:
    """Share of the time of all lives that steps took."""
    return shares(self.total()).get("step", 0.0)

  def noted(self) -> dict[str, float]:
    """{"goodput/CAUSE": share of the time of all lives}."""
    return {f"goodput/{k}": v for k, v in shares(self.total()).items()}

  def total(self) -> dict[str, float]:
    """Seconds of all lives by cause."""
    return add([self._before, self.seconds()])


def _inside(spent):
  """Of what is booked: all that lies between the start of the life and now."""
  return sum(v for k, v in spent.items() if k not in ("step", "lost_work", "idle"))


def add(parts) -> dict[str, float]:
  """{cause: seconds} summed over several of them."""
  parts = list(parts)
  return {cause: sum(part.get(cause, 0.0) for part in parts) for cause in CAUSES}


def shares(seconds) -> dict[str, float]:
  """{cause: seconds} -> {cause: share of all}, the causes that took any time."""
  whole = sum(seconds.values())
  return {k: v / whole for k, v in seconds.items() if v > 0} if whole > 0 else {}


def sentence(seconds) -> str:
  """`goodput 0.912 of 1:02:03; compile 4.1 %, save 2.0 %`."""
  found = shares(seconds)
  rest = sorted(((v, k) for k, v in found.items() if k != "step"), reverse=True)
  said = ", ".join(f"{k.replace('_', ' ')} {v:.1%}" for v, k in rest if v >= 0.0005)
  hours, left = divmod(round(sum(seconds.values())), 3600)
  whole = f"{hours}:{left // 60:02}:{left % 60:02}"
  return f"goodput {found.get('step', 0.0):.3f} of {whole}" + (f"; {said}" * bool(said))


def read(path) -> list[Life]:
  """The lives in a goodput.jsonl; a line that is none is left out, as is a file that
  cannot be read: it only tells."""
  try:
    with regular_file.open_regular(path) as file:
      lines = [file.readline(_MOST_LINE) for _ in range(MOST_LIVES)]
  except (OSError, UserError):
    return []
  texts = (line.decode("utf-8", "replace") for line in lines if line)
  return [life for text in texts if (life := _life(text))]


def _life(line):
  try:
    plain = json.loads(line)
    seconds = {c: _seconds(plain["seconds"].get(c, 0.0)) for c in CAUSES}
    step = int(_seconds(plain["step"]))
    return Life(_seconds(plain["began"]), _seconds(plain["until"]), step, seconds)
  except _NO_LIFE:
    return None


def _seconds(value):
  """JSON of Python knows NaN and Infinity, and integers that no float holds."""
  if not 0 <= (found := float(value)) < math.inf:
    raise ValueError("want a number that is not below 0")
  return found


def last_written(path) -> float:
  """Seconds since 1970 at which a file was written to; 0 where there is none."""
  try:
    return os.path.getmtime(path)
  except OSError:
    return 0.0
