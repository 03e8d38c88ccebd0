"""Numbers of a run: metrics.jsonl, boards and a progress bar."""

import contextlib
import functools
import json
import math
import sys

import tqdm

from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.training.boards import Boards

MAX_LINE = 1 << 20  # characters; a row has some hundreds
MAX_STEP = 1 << 53


class MetricsLog:
  """Writes one JSON object a step; on resumption drops what came after `start_step`.

  Only the process with `enabled` writes. boards, config: see `boards.Boards`, which
  gets every `board_every`th step and those with held-out numbers. Used as a context
  manager.
  """

  def __init__(
    self,
    folder,
    *,
    start_step,
    total,
    board_every,
    boards="",
    config=None,
    enabled=True,
  ):
    self._enabled = enabled
    self._every = board_every
    if not enabled:
      return
    drop_after(folder.metrics, start_step)
    self._file = open(folder.metrics, "a", encoding="utf-8")
    self._boards = Boards(folder, start_step, boards, config or {})
    self._bar = None
    self._stage = {}
    self._told = False
    self._make_bar = functools.partial(
      _progress_bar, folder.path.name, start_step, total
    )
    self._shown = {}

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._enabled:
      if self._bar is not None:
        self._bar.close()
      self._flush()
      with contextlib.suppress(OSError):
        self._file.close()
      self._boards.close()

  def enter(self, stage):
    """The rows that follow are of the stage of that name."""
    self._stage = {"stage": stage}

  def write(self, step, numbers):
    """One step's {name: float}; a number that is not finite is written as null."""
    if not self._enabled:
      return
    row = {"step": step} | self._stage
    row |= {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    self._file.write(json.dumps(row) + "\n")
    self._flush()
    if step % self._every == 0 or any(k.startswith("probe_") for k in numbers):
      self._boards.add(step, numbers)
    self._show(numbers)

  def note(self, step, numbers):
    """Numbers for the boards alone."""
    if self._enabled:
      self._boards.add(step, numbers)

  def _flush(self):
    """Rows that do not fit on the disk stay in memory until they do."""
    try:
      self._file.flush()
      self._told = False
    except OSError as error:
      if not self._told:
        log.error("ALARM %s: %s; training goes on", self._file.name, error)
      self._told = True

  def _show(self, numbers):
    self._shown["loss"] = f"{numbers['loss']:.4f}"
    if "probe_ciou" in numbers:
      self._shown["probe_ciou"] = f"{numbers['probe_ciou']:.3f}"
    self._shown |= self._stage
    self._shown["examples/s"] = f"{numbers['examples_per_s']:.1f}"
    if self._bar is None:  # not earlier: compiling takes longer than a step
      self._bar = self._make_bar()
    self._bar.set_postfix(self._shown, refresh=False)
    self._bar.update()


def read_rows(path) -> tuple[list, int]:
  """([(row, its line)], number of lines that are no row) of a metrics.jsonl.

  A row is an object with a whole number `step`. A killed run may leave half a line.
  Where there is no regular file there is no row.
  """
  rows, unread = [], 0
  if not path.is_file():
    return rows, unread
  with open(path, encoding="utf-8", errors="replace") as file:
    while line := file.readline(MAX_LINE):
      row = _parse_row(line)
      if row is not None:
        rows.append((row, line.rstrip("\n")))
      else:
        unread += bool(line.strip())
  return rows, unread


def _parse_row(line):
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):
    return None
  step = row.get("step") if isinstance(row, dict) else None
  return row if isinstance(step, int) and 0 <= step < MAX_STEP else None


def drop_after(path, step):
  """Keeps the whole rows up to `step`: those after it are about to be made again."""
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    return
  if not path.is_file():
    raise UserError(f"{path}: no regular file; move it away")
  rows = {row["step"]: line for row, line in read_rows(path)[0] if row["step"] <= step}
  workdir.write_atomically(path, "".join(f"{line}\n" for line in rows.values()))


def _progress_bar(name, start_step, total):
  quiet = not sys.stderr.isatty()
  return tqdm.tqdm(
    total=total,
    initial=start_step,
    desc=name,
    unit="step",
    mininterval=15.0 if quiet else 0.3,
    dynamic_ncols=not quiet,
    smoothing=0.1,
  )
