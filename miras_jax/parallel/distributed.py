"""Several processes as one program: joining, agreeing, stopping together.

A process learns of the others from, in this order: `config.distributed`; the variables
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID; Slurm or Open MPI (as jax
reads them); a TPU host. All else here does nothing in a run of one process.
"""

import glob
import hashlib
import importlib.util
import json
import os
import sys
import threading

import jax
import numpy as np
from jax.experimental import multihost_utils

from miras_jax.errors import UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# Launchers that jax.distributed.initialize() reads itself: how many tasks they started.
LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
# A process that fails ends within this; the others then learn of it.
SHUTDOWN_S = 10
# What jax waits longer than we do for processes that do not come.
GRACE_S = 60


def start(cfg, environ=None) -> None:
  """Joins the other processes when there are any. UserError when that fails.

  cfg: config.settings.DistributedConfig.
  """
  where = address(cfg, os.environ if environ is None else environ)
  if where is None or jax.distributed.is_initialized():
    return
  # Installs a SIGTERM handler that tells every process: see stop_signal.py.
  jax.config.update("jax_enable_preemption_service", True)
  # jax ends a process that waits too long by an abort with a stack: we are earlier.
  waiting = threading.Timer(cfg.join_s, _give_up, (where, cfg.join_s))
  waiting.daemon = True
  waiting.start()
  try:
    jax.distributed.initialize(
      **where,
      initialization_timeout=cfg.join_s + GRACE_S,
      heartbeat_timeout_seconds=cfg.heartbeat_s,
      shutdown_timeout_seconds=SHUTDOWN_S,
    )
  except (RuntimeError, ValueError, TypeError) as error:
    text = " ".join(str(error).split())[:200]
    raise UserError(_cannot_join(where, text)) from error
  finally:
    waiting.cancel()


def _give_up(where, seconds):
  """Ends this process, whose main thread is inside jax, in one line."""
  wanted = (
    "the others have not all come"
    if where.get("process_id") == 0
    else ("process 0 does not answer, or not all have come")
  )
  text = _cannot_join(where, f"{wanted} within {seconds} s (distributed.join_s)")
  print(f"error: {text}", file=sys.stderr, flush=True)
  os._exit(1)


def _cannot_join(where, why):
  return (
    f"cannot join the other processes ({where or 'detected by jax'}): {why}; set"
    " --config.distributed.coordinator=HOST:PORT, .processes and .process, or"
    " --config.distributed.coordinator=off"
  )


def address(cfg, environ):
  """Arguments of jax.distributed.initialize; {}: jax's choice; None: one process."""
  if cfg.coordinator == "off":
    return None
  if cfg.coordinator == "auto":
    return {}
  if cfg.coordinator:
    values = (cfg.coordinator, cfg.processes, cfg.process)
    names = tuple(f"distributed.{n}" for n in ("coordinator", "processes", "process"))
    return _checked(values, names)
  if environ.get(VARIABLES[0]):
    return _checked(tuple(environ.get(name, "") for name in VARIABLES), VARIABLES)
  if any(_int(environ.get(name, "1")) > 1 for name in LAUNCHERS):
    return {}
  return {} if _on_tpu_host(environ) else None


def _checked(values, names):
  where, count, index = values[0], _int(values[1]), _int(values[2])
  if ":" not in where:
    raise UserError(f"{names[0]}={where!r}: want HOST:PORT of process 0")
  if count < 1 or not 0 <= index < count:
    raise UserError(
      f"{names[1]}={values[1]!r} and {names[2]}={values[2]!r}: want the number of"
      " processes and, from 0 on, which of them this is"
    )
  return {
    "coordinator_address": where, "num_processes": count, "process_id": index
  }  # fmt: skip


def _int(text):
  try:
    return int(text)
  except ValueError:
    return -1


def _on_tpu_host(environ):
  platforms = environ.get("JAX_PLATFORMS", "")
  if platforms and "tpu" not in platforms:
    return False
  has_chips = bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
  return has_chips and importlib.util.find_spec("libtpu") is not None


def is_first() -> bool:
  """Whether this is the process that writes files and talks to the user."""
  return jax.process_index() == 0


def count() -> int:
  """How many processes there are."""
  return jax.process_count()


def barrier(name) -> None:
  """Returns once every process has come here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def of_first(value):
  """Process 0's bool or int, the same everywhere."""
  if jax.process_count() == 1:
    return value
  return type(value)(multihost_utils.broadcast_one_to_all(np.int32(value)))


def list_of_first(values) -> list:
  """Process 0's list of whole numbers, the same everywhere.

  What a folder holds changes while processes read it one after the other: one looks.
  """
  if jax.process_count() == 1:
    return list(values)
  count = of_first(len(values))
  room = np.zeros(count, np.int32)
  if is_first():
    room[:] = values
  return [int(x) for x in multihost_utils.broadcast_one_to_all(room)]


def any_of(flag) -> bool:
  """True everywhere when any process says so."""
  if jax.process_count() == 1:
    return bool(flag)
  return bool(np.any(multihost_utils.process_allgather(np.int32(flag))))


def together(call, *args):
  """`call(*args)` in every process: a UserError in one is a UserError in all.

  None then waits for one that has ended.
  """
  result = problem = None
  try:
    result = call(*args)
  except UserError as error:
    problem = error
  if any_of(problem is not None):
    raise problem or UserError("another process cannot go on: it says why")
  return result


def require_same(what, values) -> None:
  """UserError in every process unless all of them have the same {name: value}."""
  if jax.process_count() == 1:
    return
  text = json.dumps(values, sort_keys=True, default=str).encode()
  digest = np.frombuffer(hashlib.sha256(text).digest(), np.uint8)
  digests = multihost_utils.process_allgather(digest)
  if np.all(digests == digests[0]):
    return
  texts = _gather(text)
  first = json.loads(texts[0])
  for process, other in enumerate(map(json.loads, texts)):
    for name in sorted(first.keys() | other.keys()):
      if first.get(name) != other.get(name):
        raise UserError(
          f"the processes differ in their {what}: {name} is {first.get(name)!r} in"
          f" process 0 and {other.get(name)!r} in process {process}; start all of them"
          " with the same command"
        )


def _gather(text):
  """Every process's bytes, in order."""
  sizes = multihost_utils.process_allgather(np.int32(len(text)))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: len(text)] = np.frombuffer(text, np.uint8)
  rows = multihost_utils.process_allgather(padded)
  return [bytes(row[:size]) for row, size in zip(rows, sizes, strict=True)]
