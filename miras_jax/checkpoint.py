"""Checkpoints: the only file that imports orbax.

`miras checkpoint list DIR`             steps, sizes, losses
`miras checkpoint verify DIR`           reads every step, compares every fingerprint
`miras checkpoint prune DIR --keep=2`   deletes all but the newest steps
"""

import contextlib
import errno
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp

from miras_jax import fingerprint, trees, workdir
from miras_jax.errors import UserError
from miras_jax.logs import log
from miras_jax.run_config import RunConfig

# Beyond the arrays' bytes: metadata, the JSON beside them, the file system's own.
OVERHEAD_BYTES = 1 << 20


class Damaged(Exception):
  """A checkpoint whose content is not what was saved; names the first leaf."""


class Checkpoints:
  """Saves in the background, keeps the newest `keep` steps, restores the last good one.

  Used as a context manager: leaving it waits for the save under way.
  """

  def __init__(self, folder, *, keep):
    self.dir = workdir.Workdir(folder)
    self.dir.checkpoints.mkdir(parents=True, exist_ok=True)
    workdir.remove_temporary(self.dir.checkpoints)
    self.manager = _manager(self.dir.checkpoints, keep)
    self.last_step = None

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    if kind is None:
      self.wait()
    self.manager.close()

  def save(self, step, state, *, data_state, metrics):
    """Starts writing `state` as `step`; returns once its arrays are copied.

    data_state: JSON-ready state of the batch iterator; metrics: {name: float}.
    Raises UserError when the disk is full; nothing half-written is left.
    """
    if step == self.last_step:
      return
    saved = _saved_part(state)
    self._check_space(step, trees.num_bytes(saved))
    with self._full_disk_is_one_line(self.last_step):
      self.manager.check_for_errors()
    with self._full_disk_is_one_line(step):
      body = {
        "step": step,
        "leaves": fingerprint.table(saved),
        "data": data_state,
        "metrics": metrics,
      }
      done = self.manager.save(step, args=_save_args(saved, workdir.seal(body)))
    if not done:
      raise RuntimeError(f"orbax refused to save step {step} in {self.dir.checkpoints}")
    self.last_step = step

  def save_frozen(self, frozen):
    """Writes the parameters that never change, unless the same ones are there."""
    leaves = fingerprint.table({"params": frozen})
    if self.dir.frozen.is_dir():
      with contextlib.suppress(Damaged):
        if _read_meta(self.dir.frozen)["leaves"] == leaves:
          return
      shutil.rmtree(self.dir.frozen)
    self._check_space("frozen", trees.num_bytes(frozen))
    with self._full_disk_is_one_line("frozen"), _checkpointer() as checkpointer:
      args = _save_args({"params": frozen}, workdir.seal({"leaves": leaves}))
      checkpointer.save(self.dir.frozen.absolute(), args=args)

  def wait(self):
    """Returns when the save under way is complete; UserError when it failed."""
    with self._full_disk_is_one_line(self.last_step):
      self.manager.wait_until_finished()
      self.manager.check_for_errors()

  def restore(self, shapes):
    """(TrainState, step, data_state) of the last good step, or None without any.

    shapes: TrainState of ShapeDtypeStruct with shardings: any mesh will do. A damaged
    step is named in the log, renamed to `<step>.damaged` and the one before it is used.
    Raises UserError for a checkpoint of another architecture, or when all are damaged.
    """
    if not (steps := self.dir.steps()):
      return None
    for step in reversed(steps):
      try:
        found = self._restore_step(step, shapes)
      except Damaged as damage:
        log.error("checkpoint step %d is damaged: %s", step, damage)
        path = self.dir.step(step)
        path.rename(path.with_name(path.name + workdir.DAMAGED))
        self.manager.reload()
        continue
      self.last_step = step
      return found
    raise UserError(
      f"{self.dir.checkpoints}: every checkpoint ({steps}) is damaged; take another"
      " --workdir or put a good copy back"
    )

  def _restore_step(self, step, shapes):
    folder = self.dir.step(step)
    meta = _read_meta(folder)
    wanted = _saved_part(shapes)
    _check_architecture(folder, meta["leaves"], wanted)
    saved = _read_arrays(folder, wanted, meta["leaves"])
    frozen = read_frozen(self.dir, shapes.frozen)
    return shapes.replace(frozen=frozen, **saved), step, meta["data"]

  def _check_space(self, step, num_bytes):
    free = shutil.disk_usage(self.dir.checkpoints).free
    if free < num_bytes + OVERHEAD_BYTES:
      self._drain()
      raise UserError(_full(self.dir.checkpoints, step, num_bytes, free))

  def _drain(self):
    """Lets a save that is under way finish, whatever becomes of it."""
    with contextlib.suppress(Exception):
      self.manager.wait_until_finished()
    workdir.remove_temporary(self.dir.checkpoints)

  @contextlib.contextmanager
  def _full_disk_is_one_line(self, step):
    try:
      yield
    except Exception as error:
      if not _is_full_disk(error):
        raise
      self._drain()
      free = shutil.disk_usage(self.dir.checkpoints).free
      raise UserError(_full(self.dir.checkpoints, step, None, free)) from error


def load_for_inference(checkpoint, *, sharding=None):
  """(RunConfig, params, tokenizer folder, step) of a workdir or a step folder.

  params: the whole nested dict, trained ones from their moving average if there is one.
  Optimizer slots are not read. `sharding` defaults to the first device.
  """
  folder, step = workdir.locate(checkpoint)
  config = read_config(folder)
  sharding = sharding or _first_device()
  try:
    leaves = _read_meta(folder.step(step))["leaves"]
    part = "ema" if any(p.startswith("ema/") for p in leaves) else "trainable"
    picked = {p: e for p, e in leaves.items() if p.split("/")[0] == part}
    shapes = _shapes_of(picked, sharding)
    trainable = _read_arrays(folder.step(step), shapes, picked)[part]
    frozen = read_frozen(folder, None, sharding=sharding)
  except Damaged as damage:
    raise UserError(
      f"checkpoint step {step} is damaged: {damage}; take another step of"
      f" {folder.steps()}"
    ) from damage
  return config, trees.merge(trainable, frozen), folder.tokenizer, step


def read_config(folder):
  """RunConfig of a Workdir."""
  try:
    return RunConfig.from_json(folder.config.read_text())
  except FileNotFoundError:
    raise UserError(
      f"{folder.config}: missing; is this the --workdir of a `miras train`?"
    ) from None
  except (ValueError, TypeError, KeyError) as error:
    raise UserError(f"{folder.config}: cannot be read: {error}") from error


def read_frozen(folder, shapes, *, sharding=None):
  """Frozen parameters; `shapes` checks architecture and gives shardings."""
  if not folder.frozen.is_dir():
    raise UserError(f"{folder.frozen}: missing; put a copy of that folder back")
  try:
    leaves = _read_meta(folder.frozen)["leaves"]
    if shapes is None:
      wanted = _shapes_of(leaves, sharding)
    else:
      wanted = {"params": shapes}
      _check_architecture(folder.frozen, leaves, wanted)
    return _read_arrays(folder.frozen, wanted, leaves)["params"]
  except Damaged as damage:
    raise UserError(
      f"{folder.frozen} is damaged: {damage}; put a copy back"
    ) from damage


def verify(folder, step):
  """Reads a whole step on the host and compares every fingerprint; raises Damaged."""
  path = folder.step(step)
  leaves = _read_meta(path)["leaves"]
  try:
    with _checkpointer() as checkpointer:
      saved = checkpointer.metadata(path.absolute()).item_metadata["state"].tree
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
    found = _restore(path, ocp.args.PyTreeRestore(restore_args=args))
  except Exception as error:  # whatever tensorstore makes of damaged bytes
    raise Damaged(f"{path}/state: {_first_line(error)}") from error
  _compare(path, leaves, found)


def _first_device():
  return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _saved_part(state):
  names = ("step", "trainable", "opt_state", "rng", "ema")
  parts = {name: getattr(state, name) for name in names}
  return {name: part for name, part in parts.items() if part is not None}


def _manager(folder, keep):
  # Not `cleanup_tmp_directories`: it runs in the background and would delete frozen/
  # while that is being written.
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep, enable_async_checkpointing=True
  )
  return ocp.CheckpointManager(folder.absolute(), options=options)


def _checkpointer():
  handler = ocp.CompositeCheckpointHandler(
    state=ocp.PyTreeCheckpointHandler(), meta=ocp.JsonCheckpointHandler()
  )
  return ocp.Checkpointer(handler)


def _save_args(tree, meta):
  return ocp.args.Composite(
    state=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta)
  )


def _read_meta(folder):
  try:
    return workdir.unseal(json.loads((folder / "meta" / "metadata").read_text()))
  except (OSError, ValueError, AttributeError) as error:
    raise Damaged(f"{folder}/meta: {error}") from error


def _restore(folder, args):
  with _checkpointer() as checkpointer:
    return checkpointer.restore(folder.absolute(), args=ocp.args.Composite(state=args))[
      "state"
    ]


def _read_arrays(folder, shapes, leaves):
  """The part of a step's arrays that `shapes` describes, fingerprints compared."""
  restore = ocp.args.PyTreeRestore(
    item=shapes,
    restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
    partial_restore=True,
  )
  try:
    found = _restore(folder, restore)
  except Exception as error:  # whatever tensorstore makes of damaged bytes
    raise Damaged(f"{folder}/state: {_first_line(error)}") from error
  _compare(folder, leaves, found)
  return found


def _compare(folder, leaves, found):
  if wrong := fingerprint.first_mismatch(leaves, fingerprint.table(found)):
    raise Damaged(f"{folder}: the values of {wrong[0]!r} are not those that were saved")


def _check_architecture(folder, leaves, shapes):
  """UserError naming the first path that is not in both, or not of one shape."""
  wanted = {
    fingerprint.path_name(path): [list(leaf.shape), str(leaf.dtype)]
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
  }
  if wrong := fingerprint.first_mismatch(leaves, wanted):
    path, saved, ours = wrong
    raise UserError(
      f"{folder} is of another architecture: {path} is {_text(saved)} there and"
      f" {_text(ours)} in this config; take its config or another --workdir"
    )


def _shapes_of(leaves, sharding):
  """Nested dict of ShapeDtypeStruct for a table of leaves."""
  flat = {
    tuple(path.split("/")): jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)
    for path, (shape, dtype, _) in leaves.items()
  }
  return trees.unflatten_dict(flat)


def _text(entry):
  return f"{entry[1]}{entry[0]}" if entry else "absent"


def _first_line(error):
  return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _is_full_disk(error):
  """Whether an error, or what caused it, says that nothing more fits."""
  while error:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
      return True
    text = str(error)
    if any(s in text for s in ("No space left", "Disk quota", "File too large")):
      return True
    error = error.__cause__ or error.__context__
  return False


def _full(folder, step, num_bytes, free):
  need = f", {num_bytes / 1e6:,.1f} MB needed" if num_bytes else ""
  return (
    f"disk full: checkpoint {step} was not written to {folder} ({free / 1e6:,.1f} MB"
    f" free{need}); free some space or lower --config.keep, then run the same command"
    " again"
  )


def main(argv):
  """`miras checkpoint ACTION DIR`."""
  from miras_jax import cli

  parser = cli.Parser(prog="miras checkpoint", description=__doc__)
  parser.add_argument("action", choices=("list", "verify", "prune"))
  parser.add_argument("dir", help="a --workdir of `miras train`")
  parser.add_argument("--keep", type=int, default=1, help="steps that prune leaves")
  args = parser.parse_args(argv)
  folder, _ = workdir.locate(args.dir)
  return {"list": _list, "verify": _verify, "prune": _prune}[args.action](folder, args)


def _list(folder, _args):
  for step in folder.steps():
    size = sum(p.stat().st_size for p in folder.step(step).rglob("*") if p.is_file())
    loss = _read_meta(folder.step(step))["metrics"].get("loss", float("nan"))
    print(f"{step:>8}  {size / 1e6:>10,.1f} MB  loss {loss:.4f}  {folder.step(step)}")


def _verify(folder, _args):
  """Status 1 when any step is damaged; each one is named."""
  damaged = 0
  for step in folder.steps():
    try:
      verify(folder, step)
      print(f"{step:>8}  whole")
    except Damaged as damage:
      damaged += 1
      print(f"{step:>8}  DAMAGED: {damage}")
  read_frozen(folder, None, sharding=_first_device())
  print("  frozen  whole")
  return int(damaged > 0)


def _prune(folder, args):
  if args.keep < 1:
    raise UserError(f"--keep={args.keep}: keep at least one step")
  for step in folder.steps()[: -args.keep]:
    shutil.rmtree(folder.step(step))
    print(f"deleted {folder.step(step)}")


if __name__ == "__main__":
  from miras_jax import cli

  cli.run(main)
