"""What lies where in a training folder; no orbax, no jax.

WORKDIR/config.json            the run (run_config.RunConfig)
WORKDIR/tokenizer/             as `input_pipeline.tokenizer` saves it
WORKDIR/metrics.jsonl          one object a step
WORKDIR/checkpoints/frozen/    parameters that never change, written once
WORKDIR/checkpoints/<step>/    everything else
"""

import hashlib
import json
import os
import pathlib
import shutil

from miras_jax.errors import UserError

TEMPORARY = ".orbax-checkpoint-tmp"
DAMAGED = ".damaged"


class Workdir:
  """Paths of one training folder."""

  def __init__(self, path):
    self.path = pathlib.Path(path)
    self.config = self.path / "config.json"
    self.tokenizer = self.path / "tokenizer"
    self.metrics = self.path / "metrics.jsonl"
    self.checkpoints = self.path / "checkpoints"
    self.frozen = self.checkpoints / "frozen"

  def make(self):
    """Makes the folder. UserError when that cannot be, or cannot be written to."""
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"--workdir={self.path} cannot be made ({error.strerror}); take another one"
      ) from None
    if not os.access(self.path, os.W_OK):
      raise UserError(f"--workdir={self.path} cannot be written to; take another one")

  def step(self, step):
    return self.checkpoints / str(step)

  def steps(self):
    """Complete steps, ascending: what a killed save left behind is none of them."""
    if not self.checkpoints.is_dir():
      return []
    found = [p for p in self.checkpoints.iterdir() if p.name.isdigit()]
    return sorted(int(p.name) for p in found if is_complete(p))

  def has_begun(self):
    """Whether a step was ever saved here, be it damaged by now."""
    aside = self.checkpoints.glob(f"*{DAMAGED}")
    return bool(self.steps() or self.incomplete_steps() or any(aside))

  def incomplete_steps(self):
    """Steps that Orbax had committed and that have lost the mark of it, ascending."""
    if not self.checkpoints.is_dir():
      return []
    found = [p for p in self.checkpoints.iterdir() if p.name.isdigit()]
    return sorted(int(p.name) for p in found if not is_complete(p))


def is_complete(folder):
  """Whether Orbax committed this folder."""
  try:
    text = (folder / "_CHECKPOINT_METADATA").read_text()
    return bool(json.loads(text).get("commit_timestamp_nsecs"))
  except (OSError, ValueError):
    return False


def locate(checkpoint) -> tuple["Workdir", int]:
  """(Workdir, step) of a workdir, its `checkpoints/` or a step folder.

  A folder of several steps gives the latest complete one. Raises UserError.
  """
  if not pathlib.Path(checkpoint).is_dir():
    raise UserError(f"{checkpoint}: no such checkpoint folder")
  workdir, step = of(checkpoint)
  if step is not None:
    if not is_complete(workdir.step(step)):
      raise UserError(f"{checkpoint}: this checkpoint is incomplete; take another step")
    return workdir, step
  if not (steps := workdir.steps()):
    raise UserError(
      f"{checkpoint}: no complete checkpoint in {workdir.checkpoints}; give the"
      " --workdir of a `miras train` or one of its step folders"
    )
  return workdir, steps[-1]


def of(checkpoint):
  """(Workdir, step or None) of a workdir, its `checkpoints/` or a step folder."""
  path = pathlib.Path(checkpoint)
  if path.name.isdigit() and path.parent.name == "checkpoints":
    return Workdir(path.parent.parent), int(path.name)
  return Workdir(path.parent if path.name == "checkpoints" else path), None


def write_atomically(path, text) -> None:
  """The file is the old one or the new one, never a half."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + ".tmp")
  with open(temporary, "w", encoding="utf-8") as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  os.replace(temporary, path)


def remove_temporary(folder):
  """Deletes what unfinished saves left."""
  for path in folder.glob(f"*{TEMPORARY}*"):
    shutil.rmtree(path, ignore_errors=True)


def seal(body) -> dict:
  """`body` with a checksum of itself, for JSON files that must not change silently."""
  return body | {"checksum": _checksum(body)}


def unseal(sealed) -> dict:
  """The body; ValueError when its checksum does not fit."""
  body = {k: v for k, v in sealed.items() if k != "checksum"}
  if sealed.get("checksum") != _checksum(body):
    raise ValueError("checksum does not fit")
  return body


def _checksum(body):
  return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
