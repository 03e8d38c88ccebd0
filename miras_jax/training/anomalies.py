"""Judges the numbers of each step: what was skipped, what spikes, when to give up."""

import collections
import json
import math
import statistics

import jax

from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.logs import log

# A loss this many times the running median is reported with its records.
SPIKE = 100.0
MEDIAN_OF = 50
MEDIAN_FROM = 10
KEPT = 100


class Watch:
  """Called once a step, in order.

  folder: Workdir in which a run that gives up leaves `abort_<step>.json`; max_skipped:
  steps in a row without a finite loss and gradient that end the run.
  """

  def __init__(self, folder, *, max_skipped):
    self.folder = folder
    self.max_skipped = max_skipped
    self.skipped = 0
    self.losses = collections.deque(maxlen=MEDIAN_OF)
    self.steps = collections.deque(maxlen=KEPT)

  def __call__(self, step, numbers, records):
    """Names the records of an odd batch; UserError when it is time to give up."""
    self.steps.append({"step": step, "records": records, "numbers": numbers})
    if numbers["skipped"]:
      self._skip(step, numbers, records)
      return
    self.skipped = 0
    self._spike(step, numbers["loss"], records)

  def _skip(self, step, numbers, records):
    self.skipped += 1
    log.warning(
      "step %d skipped: loss %s, gradient norm %s; records %s",
      step, numbers["loss"], numbers["grad_norm"], records,
    )  # fmt: skip
    if self.skipped >= self.max_skipped:
      raise UserError(
        f"{self.skipped} steps in a row without a finite loss or gradient, the last is"
        f" {step}; lower optim.lr or look at records {records[:4]}; the last steps'"
        f" numbers and records are in {self._dump(step)}"
      )

  def _spike(self, step, loss, records):
    usual = statistics.median(self.losses) if len(self.losses) >= MEDIAN_FROM else None
    if usual is not None and loss > SPIKE * max(usual, 1e-9):
      log.warning(
        "step %d: the loss %.4g is %.0f times the median %.4g of the steps before;"
        " records %s", step, loss, loss / max(usual, 1e-9), usual, records,
      )  # fmt: skip
    self.losses.append(loss)

  def _dump(self, step):
    many = jax.process_count() > 1
    name = f"abort_{step}_process_{jax.process_index()}" if many else f"abort_{step}"
    path = self.folder.local / f"{name}.json"
    rows = [row | {"numbers": _finite(row["numbers"])} for row in self.steps]
    body = {"step": step, "skipped_in_a_row": self.skipped, "steps": rows}
    workdir.write_atomically(path, json.dumps(body, indent=1) + "\n")
    return self.folder.path / path.name


def _finite(numbers):
  """Numbers that JSON knows; others as text."""
  return {k: v if math.isfinite(v) else str(v) for k, v in numbers.items()}
