"""What each process of an evaluation does, and the file of lines that comes of it."""

import json
import os

import jax

from miras_jax.parallel import distributed

PREDICTIONS, METRICS = "predictions.jsonl", "metrics.json"


def do_share(work, parts, out):
  """This process's batches; the first one writes the lines that it makes at once."""
  share = jax.process_index(), jax.process_count()
  if not distributed.is_first():
    work.run(parts, share=share)
    return
  (out / METRICS).unlink(missing_ok=True)  # of an earlier evaluation's predictions
  with open(out / PREDICTIONS, "w", encoding="utf-8") as lines:

    def append(line):
      lines.write(json.dumps(line) + "\n")
      lines.flush()

    for line in work.lines(parts):
      append(line)
    work.run(parts, append, share)


def write_lines(path, lines):
  """A JSON line each: the file is the old one or the new one, never a half."""
  temporary = path.with_name(path.name + ".tmp")
  with open(temporary, "w", encoding="utf-8") as file:
    for line in lines:
      file.write(json.dumps(line, allow_nan=False) + "\n")
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
