"""The small files of a run in a bucket, in a local folder: logs grow, objects do not.

An object in a bucket is replaced as a whole and seen when it is complete, so a log that
gets a line a step is written here and copied at every save and at the end.
"""

import contextlib
import os
import re
import shutil

from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.storage import copies, lease, reach

# What a run reads again, of its own or another's; never its checkpoints.
READ = ("config.json", "metrics.jsonl", "tokenizer", "sizes")
_UNFIT = re.compile(r"[%#?\x00-\x1f\x7f]")  # tensorstore reads the place as a URL
_SKIPPED = (".tmp", ".part", ".lock", copies.INDEX)


def check_place(place) -> None:
  """UserError for a bucket in which no run can lie."""
  if os.fspath(place).startswith("s3:"):
    raise UserError(
      f"{place}: a run's checkpoints cannot lie in s3://; mount the bucket and name the"
      " folder, or take gs://BUCKET/PATH"
    )
  if reach.is_remote(place) and (found := _UNFIT.search(os.fspath(place))):
    raise UserError(
      f"{place}: a run's checkpoints cannot lie where a name has {found[0]!r} in it;"
      " take letters, digits, '-', '_' and '.'"
    )


class Mirror:
  """The folder for a run at `place`.

  writer: which process of the run writes it; each has a folder of its own. None: it is
  only read, as any number of commands may do at a time.
  """

  def __init__(self, place, writer=None):
    self.place = os.fspath(place)
    use = "read" if writer is None else f"run-{writer}"
    self._root = copies.cache_folder(use, self.place)
    self.folder = self._root / "files"
    self._pushed = {}
    self._begun = False

  def pull(self):
    """Makes the folder what the bucket holds."""
    objects = {}
    for name in READ:
      found = copies.list_objects(f"{self.place}/{name}")
      objects |= {f"{name}/{k}".rstrip("/"): found[k] for k in found}
    copies.download(self.place, objects, self.folder)
    self._pushed = self._marks()

  def push(self):
    """Copies into the bucket what has changed; Lost where another run holds it."""
    self._begun = True
    lease.check(self.place)
    marks = self._marks()
    changed = [name for name in marks if self._pushed.get(name) != marks[name]]
    copies.upload(self.folder, self.place, changed)
    self._pushed |= {name: marks[name] for name in changed}

  @contextlib.contextmanager
  def kept(self):
    """A fresh folder as the bucket is, copied into it at the end of the block.

    What cannot be copied after an error stays here, and the log says where.
    """
    shutil.rmtree(self._root, ignore_errors=True)
    self.pull()
    try:
      yield self
    except BaseException:
      self._save_logs()
      raise
    self.push()
    shutil.rmtree(self._root, ignore_errors=True)

  def _save_logs(self):
    if not self._begun:  # refused before that: it leaves nothing in the bucket
      shutil.rmtree(self._root, ignore_errors=True)
      return
    try:
      if reach.given_up():
        raise UserError("the bucket is away")
      self.push()
      shutil.rmtree(self._root, ignore_errors=True)
    except Exception:
      log.error("the logs since the last save are in %s only", self.folder)

  def _marks(self):
    """{name: what changes with its content} of the files."""
    marks = {}
    for path in self.folder.rglob("*"):
      if path.is_file() and not path.name.endswith(_SKIPPED):
        status = path.stat()
        name = path.relative_to(self.folder).as_posix()
        marks[name] = (status.st_size, status.st_mtime_ns)
    return marks
