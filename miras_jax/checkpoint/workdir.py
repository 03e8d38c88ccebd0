"""What lies where in a training folder; no orbax, no jax.

WORKDIR/config.json            the run (run_config.RunConfig)
WORKDIR/tokenizer/             as `input_pipeline.tokenizer` saves it
WORKDIR/metrics.jsonl          one object a step
WORKDIR/checkpoints/frozen/    parameters that never change, written once
WORKDIR/checkpoints/<step>/    everything else

Orbax reads and writes checkpoints in a bucket directly. What else a run in a bucket
holds is read and written in a local folder, its mirror, which `pull` and `push` copy.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil

from miras_jax.errors import UserError
from miras_jax.storage import mirror, reach

TEMPORARY = ".orbax-checkpoint-tmp"
DAMAGED = ".damaged"
METADATA = "_CHECKPOINT_METADATA"  # has a time once Orbax has written all else
# What makes a folder of a bucket a checkpoint: for us, and for Orbax.
MARKS = (METADATA, "commit_success.txt")


class Workdir:
  """Paths of one training folder.

  path: as it was named, local or in a bucket. local: where its small files are read and
  written: `path` itself, or a bucket's mirror.
  """

  def __init__(self, path):
    mirror.check_place(path)
    self.path = reach.path(path)
    self.is_remote = reach.is_remote(self.path)
    self.checkpoints = self.path / "checkpoints"
    self.frozen = self.checkpoints / "frozen"
    self._set_mirror(mirror.Mirror(self.path) if self.is_remote else None)

  def __str__(self):
    return str(self.path)

  def _set_mirror(self, found):
    self._mirror = found
    self.local = found.folder if found else self.path
    self.config = self.local / "config.json"
    self.tokenizer = self.local / "tokenizer"
    self.metrics = self.local / "metrics.jsonl"

  def make(self):
    """Makes the folder. UserError when that cannot be, or cannot be written to."""
    if self.is_remote:  # taking its lease is the first thing written
      return
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(
        f"--workdir={self.path} cannot be made ({error.strerror}); take another one"
      ) from None
    if not os.access(self.path, os.W_OK):
      raise UserError(f"--workdir={self.path} cannot be written to; take another one")

  @contextlib.contextmanager
  def written_by(self, process):
    """While the block runs, `process` of the run writes here; it holds the lock.

    In a bucket the mirror is this process's own, begins as the bucket is, and is
    copied back at the end, however the block ends.
    """
    if not self.is_remote:
      yield self
      return
    self._set_mirror(mirror.Mirror(self.path, writer=process))
    with self._mirror.kept():
      yield self

  def pull(self):
    """In a bucket: reads what is there of the small files into the mirror."""
    if self._mirror:
      self._mirror.pull()

  def push(self):
    """In a bucket: copies changed small files into it. UserError: that cannot be."""
    if self._mirror:
      self._mirror.push()

  def step(self, step):
    return self.checkpoints / str(step)

  def steps(self):
    """Complete steps, ascending: what a killed save left behind is none of them."""
    return [step for step in self._numbered() if is_complete(self.step(step))]

  def has_begun(self):
    """Whether a step was ever saved here, be it damaged by now."""
    names = reach.names(self.checkpoints)
    return any(name.isdigit() or name.endswith(DAMAGED) for name in names)

  def incomplete_steps(self):
    """Steps that Orbax had committed and that have lost the mark of it, ascending."""
    return [step for step in self._numbered() if not is_complete(self.step(step))]

  def _numbered(self):
    return sorted(int(n) for n in reach.names(self.checkpoints) if n.isdigit())


def is_complete(folder):
  """Whether Orbax committed this folder. UserError where a bucket does not say."""
  try:
    text = reach.read(folder, (folder / METADATA).read_text)
    return bool(json.loads(text).get("commit_timestamp_nsecs"))
  except (OSError, ValueError):
    return False


def locate(checkpoint) -> tuple["Workdir", int]:
  """(Workdir, step) of a workdir, its `checkpoints/` or a step folder.

  A folder of several steps gives the latest complete one. Raises UserError.
  """
  workdir, step = of(checkpoint)
  if not reach.is_folder(checkpoint):
    raise UserError(f"{checkpoint}: no such checkpoint folder")
  workdir.pull()
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
  mirror.check_place(checkpoint)
  path = reach.path(checkpoint)
  if path.name.isdigit() and path.parent.name == "checkpoints":
    return Workdir(path.parent.parent), int(path.name)
  return Workdir(path.parent if path.name == "checkpoints" else path), None


def is_there(folder):
  """Whether what Orbax wrote at once, as `frozen/`, is there and whole."""
  return is_complete(folder) if reach.is_remote(folder) else folder.is_dir()


def write_atomically(path, text) -> None:
  """The file is the old one or the new one, never a half; a link stays one.

  Two processes may write it at once. Raises UserError where no file can be.
  """
  path = writable(path)
  temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
  try:
    with open(temporary, "w", encoding="utf-8") as f:
      f.write(text)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  except OSError as error:  # of a full disk, which does not say what it was for
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    raise OSError(error.errno, error.strerror, str(path)) from None


def writable(path) -> pathlib.Path:
  """Where the file `path` lies, links followed, its folder made.

  Raises UserError for what is no regular file, and where no folder can be made.
  """
  real = pathlib.Path(os.path.realpath(path))
  if real.exists() and not real.is_file():
    kind = "a folder" if real.is_dir() else "no regular file"
    raise UserError(f"{path}: is {kind}; name a file to write")
  try:
    real.parent.mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
    raise UserError(
      f"{path}: {error.filename} is no folder and none can be made there; name a file"
      " elsewhere"
    ) from None
  return real


def remove(folder):
  """Deletes a folder; one in a bucket stops to be a checkpoint before it is less."""
  if not reach.is_remote(folder):
    shutil.rmtree(folder)
    return
  for mark in MARKS:
    with contextlib.suppress(FileNotFoundError):
      (folder / mark).unlink()
  with contextlib.suppress(FileNotFoundError):
    folder.rmtree()


def remove_temporary(folder):
  """Deletes what unfinished saves left."""
  for path in folder.glob(f"*{TEMPORARY}*"):
    with contextlib.suppress(OSError):
      remove(path)


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
