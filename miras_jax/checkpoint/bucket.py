"""Orbax's manager for checkpoints in a bucket, which may be away for a while.

A folder there cannot be renamed: a step counts once its last object, the commit file,
is written, and no longer counts when that is deleted, before all else.
"""

import orbax.checkpoint as ocp

from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.models import trees
from miras_jax.parallel import distributed
from miras_jax.storage import reach


class Manager:
  """As much of ocp.CheckpointManager as `store.Checkpoints` uses.

  A save that fails after it was started is said in the log by the next one, as the run
  has gone on; the last one is tried again. `reach.limit` ends both.
  """

  def __init__(self, folder, keep):
    self._folder, self._keep = folder, keep
    options = ocp.CheckpointManagerOptions(
      max_to_keep=None, enable_async_checkpointing=True
    )
    self._open = lambda: ocp.CheckpointManager(folder, options=options)
    self._manager = self._open()
    self._last = None  # (step, args, bytes) of a save that may be under way

  def check_for_errors(self):
    """Nothing: `save` and `wait_until_finished` wait and say what failed."""

  def save(self, step, *, args):
    """Starts a save; one before it is waited for. UserError: it cannot be started."""
    self._settle()
    size = trees.num_bytes(args.state.item)
    self._last = step, args, size
    self._insist(step, size, self._start)
    return True

  def wait_until_finished(self):
    """Returns when the last save is complete; UserError when it could not be."""
    if self._last is None:
      return
    step, _, size = self._last
    failed = False

    def finish():
      nonlocal failed
      if failed:
        self._start()
      failed = True
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

    self._insist(step, size, finish)
    self._last = None
    self._prune()

  def reload(self):
    self._manager.reload()

  def close(self):
    if not reach.given_up():
      self._manager.close()

  def _start(self):
    """Starts the last save; over what an earlier try has left."""
    step, args, _ = self._last
    folder = self._folder / str(step)
    if distributed.is_first() and folder.exists():
      workdir.remove(folder)
    if step in self._manager.all_steps():  # of a try that failed
      self._manager = self._open()
    if not self._manager.save(step, args=args):
      raise RuntimeError(f"orbax refused to save step {step} in {self._folder}")

  def _settle(self):
    """Waits for a save that is under way; the log has it when it failed."""
    if self._last is None:
      return
    (step, _, size), self._last = self._last, None

    def finish():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

    try:
      self._insist(step, size, finish, again=False)
    except UserError as problem:
      if reach.given_up():
        raise
      log.error("ALARM %s; training goes on", problem)
      self._manager = self._open()
      return
    self._prune()

  def _insist(self, step, size, call, again=True):
    """Of several processes none tries alone: they would wait for each other."""

    def attempt():
      try:
        call()
      except ValueError as error:  # tensorstore's word for what a server answered
        raise OSError(str(error)) from error

    doing = f"step {step} was not saved"
    again = again and distributed.count() == 1
    reach.insist(self._folder, doing, attempt, num_bytes=size, again=again)

  def _prune(self):
    """Deletes all but the newest steps. One that stays is deleted the next time."""
    if not distributed.is_first():
      return
    try:
      steps = workdir.Workdir(self._folder.parent).steps()
      for step in steps[: -self._keep]:
        workdir.remove(self._folder / str(step))
    except Exception as error:
      if not reach.kind_of(error):
        raise
      log.warning("%s: old steps were not deleted: %s", self._folder, error)
