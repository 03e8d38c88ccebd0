"""What is known so far of an evaluation, on disk: nothing is held, nothing lost.

OUT/.parts/settings.json      what the results depend on
OUT/.parts/part-00000.jsonl   the results of the first process's jobs, as they end

A line is {"key": "talk/12", ...}, one a job. A run that was killed finds them again; a
job that two lines are about has the same in both. The folder goes when all is written.
"""

import json
import pathlib
import re
import shutil
import tempfile

from input_pipeline import regular_file
from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.inference.json_lines import Appender

NAME = ".parts"
_KEY = re.compile(rb'\{"key": "([a-z]+/\d+)"')


class Parts:
  """The results in a folder, by key. `appender(process)` is the way to add some."""

  def __init__(self, folder):
    self.folder = pathlib.Path(folder)
    self.folder.mkdir(parents=True, exist_ok=True)
    self.find()

  @classmethod
  def temporary(cls) -> "Parts":
    """In a folder that goes with it."""
    folder = tempfile.TemporaryDirectory()
    parts = cls(folder.name)
    parts._goes_with_it = folder
    return parts

  def find(self):
    """Looks for the whole lines of every process."""
    self._places = {}  # key: (file, where its line begins)
    for path in sorted(self.folder.glob("part-*.jsonl")):
      start = 0
      with regular_file.open_regular(path) as file:
        for line in file:
          found = _KEY.match(line)
          if found and line.endswith(b"\n"):
            self._places[found[1].decode()] = path, start
          start += len(line)

  def __contains__(self, key):
    return key in self._places

  def __getitem__(self, key) -> dict:
    """A job's result. UserError without one, or where the file is damaged."""
    if key not in self._places:
      raise UserError(
        f"{self.folder}: has no result of {key}; --out must be a folder that every"
        " process sees, and nothing else may write there"
      )
    path, start = self._places[key]
    try:
      with regular_file.open_regular(path) as file:
        file.seek(start)
        return json.loads(file.readline())
    except (OSError, ValueError) as error:
      raise UserError(
        f"{path}: damaged ({error}); remove {self.folder} to begin anew"
      ) from None

  def appender(self, process=0) -> Appender:
    """The file of a process's own results, a context; `write` takes a line."""
    return Appender(self.folder / f"part-{process:05d}.jsonl")

  def remove(self):
    """What is here is written elsewhere."""
    shutil.rmtree(self.folder)


def open_parts(out, settings, checks=True) -> Parts:
  """The Parts in a folder of results. UserError where half-done ones of other settings
  are there; checks: one process looks for all."""
  folder = pathlib.Path(out) / NAME
  if checks:
    check_settings(folder, settings)
  return Parts(folder)


def check_settings(folder, settings) -> None:
  """Writes what results depend on; UserError where others are half done in there."""
  path = pathlib.Path(folder) / "settings.json"
  settings = json.loads(json.dumps(settings))
  found = regular_file.read_object(path)
  name = found and first_difference(found, settings)
  if name and _has_results(path.parent):
    raise UserError(
      f"{path.parent}: holds a half-done evaluation of {name}={found.get(name)!r}, not"
      f" {settings.get(name)!r}; take another --out, or remove that folder to begin"
      " anew"
    )
  if not found or name:
    workdir.write_atomically(path, json.dumps(settings, indent=1) + "\n")


def _has_results(folder):
  """Whether any job is done: without, there is nothing that could be mixed up."""
  return any(path.stat().st_size for path in folder.glob("part-*.jsonl"))


def first_difference(found, settings) -> str:
  """The first setting that is another one in `found`, or in one of the two alone; ""
  where none is."""
  names = dict.fromkeys([*settings, *found])
  return next((k for k in names if found.get(k) != settings.get(k)), "")
