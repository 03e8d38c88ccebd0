"""`predictions.jsonl`: appended to, found again after a kill, read for other forms.

With several processes each appends to a part of its own; the first joins the parts once
all are done.
"""

import json
import pathlib
from collections.abc import Iterator

from input_pipeline import regular_file
from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.inference.json_lines import Appender

NAME = "predictions.jsonl"
SETTINGS = "segment.json"
PARTS = "predictions.part-*.jsonl"


class Results:
  """The results in a folder. `done`: the ids that it held when it was opened."""

  def __init__(self, out):
    self.out = pathlib.Path(out)
    self.path = self.out / NAME
    self.done = {line["id"] for path in self._files() for line in read_lines(path)}

  def part(self, process, processes) -> pathlib.Path:
    """Where this process appends."""
    if processes == 1:
      return self.path
    return self.out / f"predictions.part-{process:05d}.jsonl"

  def join_parts(self):
    """Appends all parts to predictions.jsonl; after a kill between, once each."""
    known = {line["id"] for line in read_lines(self.path)}
    with Appender(self.path) as file:
      for part in sorted(self.out.glob(PARTS)):
        for line in read_lines(part):
          if line["id"] not in known:
            file.write(line)
            known.add(line["id"])
        file.sync()
        part.unlink()

  def _files(self):
    return [self.path, *sorted(self.out.glob(PARTS))]


def read_lines(path) -> Iterator[dict]:
  """The whole lines of a file of results, none where there is no file.

  A last line without its end is what a kill left, and is passed over. Raises UserError
  naming another line that is no result.
  """
  if not regular_file.is_there(path):
    return
  with regular_file.open_regular(path) as file:
    for number, line in enumerate(file, 1):
      if not line.endswith(b"\n"):
        return
      try:
        found = json.loads(line)
        found["id"], found["turns"], found["size"], found["image"]
      except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
          f"{path}:{number}: is no line of `miras segment`; delete it, or take another"
          " --out"
        ) from None
      yield found


def check_settings(out, settings) -> None:
  """Writes what the answers depend on; UserError where OUT holds others' answers."""
  path = pathlib.Path(out) / SETTINGS
  found = regular_file.read_object(path)
  for name, value in settings.items():
    if found and found.get(name) != value:
      raise UserError(
        f"{path}: the results there are of {name}={found.get(name)!r}, not {value!r};"
        " take another --out"
      )
  if not found:
    workdir.write_atomically(path, json.dumps(settings, indent=1) + "\n")
