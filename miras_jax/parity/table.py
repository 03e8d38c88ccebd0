"""The result table: what was computed, against what, how far off, and the verdict."""

import math
from typing import NamedTuple

import numpy as np

from miras_jax.errors import UserError

ACTIVATION, LOSS, EXACT = 1e-4, 1e-5, 0.0
RELATIVE = {"bfloat16": 2e-2, "int8": 5e-2}  # of every tensor that is not exact


class Row(NamedTuple):
  """`error` is None where the folder has nothing to compare with."""

  name: str
  error: float | None
  tolerance: float
  note: str = ""

  @property
  def passed(self):
    return self.error is None or self.error <= self.tolerance


class Table:
  """Collects rows and every computed tensor.

  A tensor keeps its name in outputs.npz; one of another file is `FILE/NAME` there, FILE
  without its ending, since names repeat between files.
  """

  def __init__(self, folder, dtype="float32"):
    self.folder, self.relative = folder, dtype != "float32"
    self.loose = RELATIVE.get(dtype)
    self.measure = "relative error" if self.relative else "max abs error"
    self.rows, self.skipped, self.computed = [], [], {}

  def tensor(self, name, ours, tolerance=ACTIVATION, *, file="outputs.npz"):
    """Compares one tensor with `name` of `file`; another shape is infinitely far."""
    ours = np.asarray(ours)
    stem = file.rsplit(".", 1)[0]
    label = name if file == "outputs.npz" else f"{stem}/{name}"
    self.computed[label] = _storable(ours)
    if not self.folder.has(file):
      self.rows.append(Row(label, None, tolerance, "no reference"))
      return
    load = self.folder.npz if file.endswith(".npz") else self.folder.tensors
    arrays = load(file)
    if name not in arrays:
      self.rows.append(Row(label, None, tolerance, "no reference"))
      return
    self.rows.append(self._compare(label, ours, arrays[name], tolerance))

  def tensors(self, ours, file, *, bare=str):
    """Compares every tensor of a file with `ours[bare(name)]`; a lacking one fails."""
    if self.too_coarse(file):
      return
    for name in self.folder.tensors(file):
      if bare(name) in ours:
        self.tensor(name, ours[bare(name)], file=file)
      else:
        label = f"{file.rsplit('.', 1)[0]}/{name}"
        self.rows.append(Row(label, math.inf, ACTIVATION, "no such tensor of ours"))

  def number(self, label, ours, theirs, tolerance):
    """Compares two numbers or arrays that are in no array file."""
    self.computed[label] = _storable(np.asarray(ours))
    row = self._compare(label, np.asarray(ours), np.asarray(theirs), tolerance)
    self.rows.append(row)

  def text(self, label, ours, theirs):
    """Compares two texts; the error is the number of characters that differ."""
    length = abs(len(ours) - len(theirs))
    differing = sum(a != b for a, b in zip(ours, theirs, strict=False)) + length
    self.rows.append(Row(label, float(differing), EXACT, "characters"))

  def too_coarse(self, what):
    """Whether `what`, a small difference of large numbers, is left out where the
    rest is compared relatively."""
    if self.relative:
      self.skip(what, "compared in float32 only")
    return self.relative

  def skip(self, what, why):
    self.skipped.append((what, why))

  def _compare(self, label, ours, theirs, tolerance):
    if ours.shape != theirs.shape:
      note = f"shape {ours.shape}, golden {theirs.shape}"
      return Row(label, math.inf, tolerance, note)
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    error = float(np.abs(ours - theirs).max(initial=0))
    note = ""
    if self.relative and tolerance != EXACT:
      error, tolerance = _relative(ours, theirs), self.loose
    error = math.inf if math.isnan(error) else error
    return Row(label, error, tolerance, note)

  @property
  def failures(self):
    return [row for row in self.rows if not row.passed]

  def print(self):
    """The table, what was left out, and one line of summary."""
    print(f"{'verdict':<7}  {self.measure:>14}  {'tolerance':>9}  tensor")
    for row in self.rows:
      print(_line(row))
    for what, why in self.skipped:
      print(f"not reproduced: {what}: {why}")
    failed = self.failures
    checked = sum(row.error is not None for row in self.rows)
    print(
      f"{checked - len(failed)} of {checked} within tolerance"
      + (f"; past it: {', '.join(row.name for row in failed)}" if failed else "")
    )

  def save(self, path):
    try:
      with open(path, "wb") as file:
        np.savez(file, **self.computed)
    except OSError as error:
      raise UserError(f"--out={path}: {error.strerror}") from None


def _line(row):
  name = row.name + (f"  ({row.note})" if row.note else "")
  if row.error is None:
    return f"{'-':<7}  {'-':>14}  {'-':>9}  {name}"
  tolerance = "exact" if row.tolerance == EXACT else f"{row.tolerance:.0e}"
  verdict = "ok" if row.passed else "FAIL"
  return f"{verdict:<7}  {row.error:>14.2e}  {tolerance:>9}  {name}"


def _relative(ours, theirs):
  """Norm of the difference over the norm of the reference."""
  size = float(np.linalg.norm(theirs))
  return float(np.linalg.norm(ours - theirs)) / max(size, 1e-12)


def _storable(array):
  """numpy's own formats only, so that anybody can read the file."""
  return array if array.dtype.kind in "biuf" else array.astype(np.float32)
