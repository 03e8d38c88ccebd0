"""The results of all jobs, put together: tables of targets, lines, what failed.

Of the masks nothing is held: they are read again from `Parts` where somebody asks.
"""

import collections
from collections.abc import Sequence

from miras_jax.errors import UserError
from miras_jax.evaluation import kept, metrics

FORCED = "teacher_forced"


class Collected:
  """See the module.

  failed: {record: why it cannot be scored, its name first}. sound: the other records.
  tables: {pass: `metrics.Targets.table`}. beside: those of the free-running pass, of
  the targets that the pass was scored on. answers: for each sound record [(text, number
  of [SEG]) of each turn]. lines: of predictions.jsonl, of the sound records.
  """

  def __init__(self, plan, count, parts, groups, forced=True):
    """count: of records. groups: numbers of the jobs in the order of their batches."""
    self._parts, self._uses = parts, kept.uses(plan, count)
    self.failed, self.refused, self.shortened = {}, 0, 0
    self._jobs = collections.defaultdict(list)  # (record, pass): (job, which use)
    for job, of_job in self._uses.items():
      for k, use in enumerate(of_job):
        self._jobs[use.record, use.name].append((job, k))
    self._names = dict.fromkeys(u.name for us in self._uses.values() for u in us)
    names = [*self._names, *([FORCED] if forced else [])]
    self._rows = {name: [{} for _ in range(count)] for name in names}
    self._answers = [None] * count
    for job in (job for group in groups for job in group):
      self._add_job(parts[f"talk/{job}"])
    for i in range(count) if forced else ():
      self._add(i, FORCED, parts[f"forced/{i}"])
    self.sound = [i for i in range(count) if i not in self.failed]
    if not self.sound:
      raise UserError(f"no record could be scored: {next(iter(self.failed.values()))}")
    self.answers = [self._answers[i] for i in self.sound]
    self.lines = Lines(parts, self.sound)
    self.tables = {name: self._table(name, name) for name in self._rows}
    self.beside = {name: self._table(kept.FREE, name) for name in self._rows}
    del self._rows, self._answers

  def masks_of(self, i) -> dict[str, list]:
    """{pass: RLE, or None, of each target} of a record."""
    found = {name: self.places_of(i, name) for name in self._names}
    return {name: [rles[k] for k in sorted(rles)] for name, rles in found.items()}

  def places_of(self, i, name) -> dict:
    """{place of a target: RLE, or None} of a record in a pass."""
    found = {}
    for job, k in self._jobs.get((i, name), ()):
      result = self._parts[f"talk/{job}"]["uses"][k]
      found.update(zip(result["places"], _masks(result), strict=True))
    return found

  def _add_job(self, result):
    self.refused += result["refused"]
    self.shortened += result["shortened"]
    for use in result["uses"]:
      self._add(use["record"], use["name"], use)
      if line := use.get("line"):
        turns = [(turn["answer"], turn["num_seg"]) for turn in line["turns"]]
        self._answers[use["record"]] = turns

  def _add(self, i, name, result):
    if "failed" in result:
      self.failed.setdefault(i, result["failed"])
      return
    places = result.get("places", range(len(result["rows"])))
    self._rows[name][i].update(zip(places, result["rows"], strict=True))

  def _table(self, name, like):
    """The rows of pass `name` for the targets that pass `like` was scored on."""
    targets = metrics.Targets(canny=name == kept.FREE)
    for i in self.sound:
      rows = self._rows[name][i]
      targets.rows += [rows[k] for k in sorted(self._rows[like][i])]
    return targets.table()


def _masks(use):
  """The RLEs, or None, of a use."""
  if use["name"] != kept.FREE:
    return use["masks"]
  return [t["mask"] if t["produced"] else None for t in use["line"]["targets"]]


class Lines(Sequence):
  """Lines of predictions.jsonl in the data's order, each read when it is asked for."""

  def __init__(self, parts, records):
    self._parts, self._records = parts, records

  def __len__(self):
    return len(self._records)

  def __getitem__(self, i):
    i = range(len(self))[i]
    return line_of(self._parts[f"talk/{self._records[i]}"])


def line_of(result) -> dict | None:
  """The line of predictions.jsonl that a job's result has, if it has one."""
  return next((use["line"] for use in result["uses"] if "line" in use), None)
