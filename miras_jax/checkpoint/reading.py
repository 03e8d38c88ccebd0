"""Reads checkpoints: whole runs, single leaves, what is damaged. Imports orbax.

With several processes every function is called by all of them, and what one finds
damaged all leave.
"""

import contextlib
import json
import math
import pathlib
import re

import jax
import numpy as np
import orbax.checkpoint as ocp

from input_pipeline import regular_file
from miras_jax import logs
from miras_jax.checkpoint import array_files, fingerprint, leaf_table, workdir
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.models import trees
from miras_jax.parallel import distributed
from miras_jax.storage import copies, reach

HOST_BYTES = 1 << 28  # that `verify` reads at a time


class Damaged(Exception):
  """A checkpoint whose content is not what was saved; names the first leaf."""


def load_run(checkpoint, *, sharding=None) -> tuple[RunConfig, dict, pathlib.Path, int]:
  """(RunConfig, params, tokenizer folder, step) of a workdir or a step folder.

  params: the whole nested dict, trained ones from their moving average if there is one.
  Optimizer slots are not read. `sharding`: one for all, or a function as in
  `leaf_table.shapes_of`; by default the first device. When the run is
  being trained and deletes its oldest step meanwhile, the next one is read.
  """
  folder, step = workdir.locate(checkpoint)
  config = read_config(folder)
  sharding = sharding or _first_device()
  try:
    params = _read_params(folder, step, sharding)
  except Damaged as damage:
    if not folder.step(step).is_dir() and workdir.of(checkpoint)[1] is None:
      return load_run(checkpoint, sharding=sharding)
    raise UserError(
      f"checkpoint step {step} is damaged: {damage}; take another step of"
      f" {folder.steps()}"
    ) from damage
  return config, params, folder.tokenizer, step


def _read_params(folder, step, sharding):
  part, picked = _trained(read_meta(folder.step(step))["leaves"])
  shapes = leaf_table.shapes_of(picked, sharding)
  trainable = read_arrays(folder.step(step), shapes, picked)[part]
  return trees.merge(trainable, read_frozen(folder, None, sharding=sharding))


def read_config(folder) -> RunConfig:
  """RunConfig of a Workdir."""
  shown = folder.path / folder.config.name
  try:
    text = regular_file.read_bytes(folder.config, regular_file.SMALL_JSON).decode()
    return RunConfig.from_json(text)
  except FileNotFoundError:
    raise UserError(
      f"{shown}: missing; is this the --workdir of a `miras train`?"
    ) from None
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise UserError(f"{shown}: cannot be read: {error}") from error


def check_tokenizer(folder, meta, fingerprint) -> None:
  """UserError when the step with this `meta` was made with another tokenizer.

  folder: Workdir. fingerprint: of the tokenizer at hand, `Tokenizer.fingerprint()`; ""
  is not known, as in steps of an earlier version.
  """
  saved = meta.get("tokenizer")
  if saved and fingerprint and saved != fingerprint:
    raise UserError(
      f"{folder.tokenizer} gives other ids than the tokenizer that step {meta['step']}"
      " was trained with; put that one back (another run's, or a changed one, is there)"
    )


def read_frozen(folder, shapes, *, sharding=None) -> dict:
  """Frozen parameters; `shapes` checks architecture and gives shardings."""
  if not workdir.is_there(folder.frozen):
    raise UserError(f"{folder.frozen}: missing; put a copy of that folder back")
  try:
    with together(folder.frozen):
      leaves = read_meta(folder.frozen)["leaves"]
    if shapes is None:
      wanted = leaf_table.shapes_of(leaves, sharding)
    else:
      wanted = {"params": shapes}
      leaf_table.check_architecture(folder.frozen, leaves, wanted)
    return read_arrays(folder.frozen, wanted, leaves)["params"]
  except Damaged as damage:
    raise UserError(
      f"{folder.frozen} is damaged: {damage}; put a copy back"
    ) from damage


def read_table(folder) -> dict[str, list]:
  """{leaf: (shape, dtype, fingerprint)} of a step folder or `frozen/`.

  Raises Damaged when what describes them is not what was saved.
  """
  return read_meta(folder)["leaves"]


def load_part(checkpoint, patterns, *, sharding=None) -> tuple[dict, int]:
  """(params, step): only the trained parameters whose path has one of `patterns`.

  Reads nothing else, so that adapters (`r"/lora_[ab]$"`) of a large run load at once.
  Of the moving average if there is one. Raises UserError when nothing matches.
  """
  folder, step = workdir.locate(checkpoint)
  part, picked = _trained(read_meta(folder.step(step))["leaves"])
  picked = {p: e for p, e in picked.items() if any(re.search(x, p) for x in patterns)}
  if not picked:
    raise UserError(f"{folder.step(step)}: no trained parameter has {list(patterns)}")
  shapes = leaf_table.shapes_of(picked, sharding or _first_device())
  try:
    return read_arrays(folder.step(step), shapes, picked)[part], step
  except Damaged as damage:
    raise UserError(f"checkpoint step {step} is damaged: {damage}") from damage


def _trained(leaves):
  """("ema" or "trainable", its entries of a table of leaves)."""
  part = "ema" if any(p.startswith("ema/") for p in leaves) else "trainable"
  return part, {p: e for p, e in leaves.items() if p.split("/")[0] == part}


def verify(folder) -> None:
  """Reads a step (or frozen/) on the host, some leaves at a time; raises Damaged.

  Memory holds HOST_BYTES or one leaf, whichever is more, and a device nothing.
  """
  leaves = read_table(folder)
  saved = _saved_tree(folder)
  flat = jax.tree_util.tree_leaves_with_path(saved)
  if wrong := sorted({fingerprint.path_name(path) for path, _ in flat} ^ leaves.keys()):
    raise Damaged(f"{folder}: {wrong[0]!r} is not in both its table and its arrays")
  for names in groups(leaves):
    _host_arrays(folder, saved, {name: leaves[name] for name in names})


def read_on_host(folder, names) -> dict[str, np.ndarray]:
  """{path: array} of some leaves of a step or `frozen/`; Damaged if one changed."""
  leaves = read_table(folder)
  return _host_arrays(folder, _saved_tree(folder), {n: leaves[n] for n in names})


def groups(leaves):
  """Sets of paths whose arrays take at most HOST_BYTES together, or single ones."""
  names, size = set(), 0
  for name, (shape, dtype, _) in leaves.items():
    added = math.prod(shape) * jax.numpy.dtype(dtype).itemsize
    if names and size + added > HOST_BYTES:
      yield names
      names, size = set(), 0
    names.add(name)
    size += added
  if names:
    yield names


def _saved_tree(folder):
  """The tree of a checkpoint's metadata; raises Damaged."""
  if fault := array_files.first_fault(folder / "state"):
    raise Damaged(fault)

  def read():
    handler = ocp.PyTreeCheckpointHandler()
    return handler.metadata(reach.full(folder / "state")).tree

  try:
    return reach.read(folder, read)
  except UserError:
    raise
  except Exception as error:  # whatever tensorstore makes of damaged bytes
    raise Damaged(_why(folder, error)) from error


def _host_arrays(folder, saved, leaves):
  """{path: array} of `leaves`, fingerprints compared; raises Damaged.

  saved: the metadata's tree, whose other leaves are not read.
  """

  def wanted(path, leaf):
    return leaf if fingerprint.path_name(path) in leaves else ocp.PLACEHOLDER

  item = jax.tree.map_with_path(wanted, saved)
  as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
  try:
    found = _restore(folder, ocp.args.PyTreeRestore(item=item, restore_args=as_numpy))
    arrays = {
      fingerprint.path_name(path): np.asarray(x)
      for path, x in jax.tree_util.tree_leaves_with_path(found)
      if x is not ocp.PLACEHOLDER
    }
    table = {
      path: [list(x.shape), str(x.dtype), fingerprint.on_host(x)]
      for path, x in arrays.items()
    }
  except UserError:
    raise
  except Exception as error:  # whatever tensorstore makes of damaged bytes
    raise Damaged(_why(folder, error)) from error
  if wrong := fingerprint.first_mismatch(leaves, table):
    raise Damaged(f"{folder}: the values of {wrong[0]!r} are not those that were saved")
  return arrays


def read_metrics(folder) -> dict[str, float]:
  """{name: number} saved with a step; raises Damaged."""
  return read_meta(folder)["metrics"]


def _first_device():
  return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def read_meta(folder):
  read = (folder / "meta" / "metadata").read_text
  try:
    return workdir.unseal(json.loads(reach.read(folder, read)))
  except (OSError, ValueError, AttributeError) as error:
    raise Damaged(f"{folder}/meta: {error}") from error


def _restore(folder, args):
  # Not through a Checkpointer: it waits for all processes, and one that met damage
  # would leave the others waiting. Once one read has failed, tensorstore prints a
  # traceback for each of the others.
  logs.hush("Event loop is closed")
  state = reach.full(folder / "state")
  size = sum(copies.sizes(state).values()) if reach.is_remote(state) else 0
  return reach.read(
    folder,
    lambda: ocp.PyTreeCheckpointHandler().restore(state, args=args),
    num_bytes=size,
  )


def read_arrays(folder, shapes, leaves):
  """The part of a step's arrays that `shapes` describes, fingerprints compared."""
  restore = ocp.args.PyTreeRestore(
    item=shapes,
    restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
    partial_restore=True,
  )
  with together(folder):
    found = _restore(folder, restore)
  _compare(folder, leaves, found)
  return found


@contextlib.contextmanager
def together(folder):
  """What one process cannot read is Damaged for all: none goes on alone."""
  damage = None
  try:
    yield
  except (Damaged, UserError) as error:  # a bucket that is away is no damage
    damage = error
  except Exception as error:  # whatever tensorstore makes of damaged bytes
    damage = Damaged(_why(folder, error))
    damage.__cause__ = error
  if distributed.any_of(damage is not None):
    raise damage or Damaged(f"{folder}: another process cannot read its part")


def _compare(folder, leaves, found):
  try:
    table = fingerprint.table(found)
  except (TypeError, ValueError, AttributeError) as error:  # a leaf that is no array
    raise Damaged(_why(folder, error)) from error
  if wrong := fingerprint.first_mismatch(leaves, table):
    raise Damaged(f"{folder}: the values of {wrong[0]!r} are not those that were saved")


def _why(folder, error):
  """A sentence of ours where a file lacks bytes, else the first of the error."""
  if fault := array_files.first_fault(folder / "state"):
    return fault
  text = str(error).partition("See full TensorStore details")[0]
  return f"{folder}/state: {type(error).__name__}: {' '.join(text.split())[:200]}"
