"""Trains a model; run the same command again and it resumes by itself.

  miras train --config=configs/prist_quickstart.py --workdir=runs/first
  miras train --config=configs/prist_quickstart.py:size=tiny --workdir=runs/tiny \\
      --config.steps=200 --config.optim.lr=1e-3

--config=FILE[:options]   your config, or the name of one that comes with the package
--workdir=DIR             gets checkpoints/, metrics.jsonl, tensorboard/, tokenizer/
--config.a.b=VALUE        changes one field; configs/common.py lists all of them

SIGTERM saves and ends with status 0.
"""

import collections
import functools
import math
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

from miras_jax import (
  cli,
  config_file,
  logs,
  optim,
  run_config,
  sharding,
  train_step,
  trees,
  workdir,
)
from miras_jax import mesh as mesh_lib
from miras_jax.checkpoint import Checkpoints, read_config
from miras_jax.errors import UserError
from miras_jax.program import Program
from miras_jax.run_config import RunConfig
from miras_jax.task import make_task

# The loop reads a step's numbers this many steps later: the device never waits for it.
LAG = 2
MAX_SKIPPED = 10
# Frozen leaves that keep float32 in a bfloat16 run: they are small and the rounding is
# not (SAM's Fourier matrix is multiplied by 2 pi, norms scale every activation).
KEEP_FLOAT32 = ("scale", "bias", "gamma", "gaussian")


def main(argv):
  """`miras train ...`; see the module's head."""
  arguments = parse(argv)
  if arguments is None:
    print(__doc__)
    return 0
  logs.to_stderr()
  config, folder = arguments
  config, done = _compare_folder(config, folder)
  if done >= config.steps:
    print(
      f"{folder.path} is already trained to step {done};"
      f" --config.steps={2 * done} would train on"
    )
    return 0
  _start_jax(config)
  devices = mesh_lib.make_mesh(config.mesh)
  mesh_lib.check_batch(
    config.batch_size, devices, accumulation=config.optim.accumulation
  )
  return train(make_task(config, folder), folder, devices)


def parse(argv):
  """(RunConfig, Workdir) of the command line, or None for --help. Raises UserError."""
  options = list(_options(argv))
  names = [name for name, _ in options]
  if "--help" in names or "-h" in names:
    return None
  known = ("--config", "--workdir")
  for name in names:
    if name not in known and not name.startswith("--config."):
      raise UserError(f"miras train: unknown option {name}{cli.nearest(name, known)}")
  values = dict(options)
  for name in known:
    if not values.get(name):
      raise UserError(f"miras train: {name}=... is missing (see miras train --help)")
  config = config_file.load(values["--config"])
  for name, value in options:
    if name.startswith("--config."):
      config_file.override(config, name.removeprefix("--config."), value)
  return RunConfig.from_config_dict(config), workdir.Workdir(values["--workdir"])


def train(task, folder, mesh):
  """Trains `task` in `folder` until its config's last step or SIGTERM; returns 0."""
  config = task.config
  with jax.set_mesh(mesh), Checkpoints(folder.path, keep=config.keep) as checkpoints:
    shapes, parts = plan(task, mesh)
    state, start = _start(task, folder, checkpoints, shapes, parts.tx)
    log_file = logs.Logs(
      folder,
      start_step=start,
      total=config.steps,
      tensorboard_every=config.log_every,
      enabled=jax.process_index() == 0,
    )
    with log_file, _Sigterm() as stop:
      loop = _Loop(task, mesh, parts, checkpoints, log_file)
      step = loop.run(state, start, stop)
  task.batches.close()
  why = "done" if step >= config.steps else "stopped by SIGTERM; run it again to go on"
  print(f"{folder.path}: step {step} of {config.steps}, {why}")
  return 0


class _Loop:
  """Step, probe, log, save. What changes during a run is here or in the TrainState."""

  def __init__(self, task, mesh, parts, checkpoints, log_file):
    self.config = task.config
    self.batches = task.batches
    self.probe_batch = task.probe
    self.parts = parts
    self.checkpoints = checkpoints
    self.log_file = log_file
    self.sharding = sharding.batch_sharding(mesh)
    self.replicated = sharding.replicated_sharding(mesh)
    self.pending = collections.deque()
    self.skipped = 0
    self.last = {}

  def run(self, state, step, stop):
    """Runs on from `step`; returns the step it ended at, which is then saved."""
    config = self.config
    if step >= config.steps:
      return step
    consumed = self.batches.get_state()
    batch, notes = self._next()
    train_program, probe_program = self._compile(state, batch)
    self.clock = time.perf_counter()
    while step < config.steps and not stop.is_set():
      state, metrics = train_program(state, batch)
      step += 1
      last = step == config.steps
      if probe_program and (last or step % config.probe_every == 0):
        probe = probe_program(state, self.probe_batch)
        metrics |= {f"probe_{k}": v for k, v in probe.items()}
      self.pending.append((step, metrics, notes))
      consumed = self.batches.get_state()
      if not last:  # while the device works
        batch, notes = self._next()
      self._flush(LAG)
      if step % config.checkpoint_every == 0:
        self._save(step, state, consumed)
    if step:
      self._save(step, state, consumed)
    return step

  def _next(self):
    """(global batch on the devices, {what the log says about it})."""
    start = time.perf_counter()
    batch = next(self.batches)
    notes = {
      "data_wait_s": time.perf_counter() - start,
      "tokens": int((batch["segments"] > 0).sum()) if "segments" in batch else 0,
      "record": self.batches.records(batch),
    }
    return self._put(batch), notes

  def _put(self, batch):
    return {
      k: jax.make_array_from_process_local_data(self.sharding, v)
      for k, v in batch.items()
    }

  def _compile(self, state, batch):
    """(train program, probe program or None); moves the probe batch to the devices."""
    shapes = jax.tree.map(_shape, state)
    train_jit = jax.jit(
      functools.partial(train_step.train_step, parts=self.parts),
      out_shardings=(jax.tree.map(lambda x: x.sharding, state), self.replicated),
      donate_argnums=0,
    )
    batch_shapes = jax.tree.map(_shape, batch)
    train_program = Program("train_step", train_jit, shapes, batch_shapes)
    if self.probe_batch is None:
      return train_program, None
    self.probe_batch = self._put(self.probe_batch)
    probe_jit = jax.jit(
      functools.partial(train_step.eval_step, parts=self.parts),
      out_shardings=self.replicated,
    )
    probe_shapes = jax.tree.map(_shape, self.probe_batch)
    return train_program, Program("probe_step", probe_jit, shapes, probe_shapes)

  def _flush(self, lag):
    """Writes the numbers of all but the newest `lag` steps."""
    while len(self.pending) > lag:
      step, metrics, notes = self.pending.popleft()
      numbers = {k: float(v) for k, v in jax.device_get(metrics).items()}
      now = time.perf_counter()
      seconds, self.clock = max(now - self.clock, 1e-9), now
      self._watch(step, numbers, notes["record"])
      self.last = numbers
      self.log_file.write(
        step,
        numbers
        | {
          "examples_per_s": len(notes["record"]) * jax.process_count() / seconds,
          "tokens_per_s": notes["tokens"] * jax.process_count() / seconds,
          "data_wait_s": notes["data_wait_s"],
        },
      )

  def _watch(self, step, numbers, records):
    """Names the records of a skipped batch; too many in a row end the run."""
    if not numbers["skipped"]:
      self.skipped = 0
      return
    self.skipped += 1
    logs.log.warning(
      "step %d skipped: loss %s, gradient norm %s; records %s",
      step, numbers["loss"], numbers["grad_norm"], records,
    )  # fmt: skip
    if self.skipped >= MAX_SKIPPED:
      raise UserError(
        f"{self.skipped} steps in a row without a finite loss or gradient, the last is"
        f" {step}; lower optim.lr or look at records {records[:4]}"
      )

  def _save(self, step, state, data_state):
    self._flush(0)  # so that a checkpoint never lacks the rows before it
    finite = {k: v for k, v in self.last.items() if math.isfinite(v)}
    self.checkpoints.save(step, state, data_state=data_state, metrics=finite)


class _Sigterm(threading.Event):
  """Set by SIGTERM while the context is open."""

  def __enter__(self):
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._before = signal.signal(signal.SIGTERM, lambda *_: self.set())
    return self

  def __exit__(self, *_):
    if self._main:
      signal.signal(signal.SIGTERM, self._before)


def plan(task, mesh):
  """(TrainState of shapes with shardings, Parts): what is known before any value."""
  config = task.config
  schedule = optim.make_schedule(config.optim, config.steps)
  parts = train_step.Parts(
    objective=task.objective,
    tx=optim.make_optimizer(config.optim, config.steps),
    schedule=schedule,
    accumulation=config.optim.accumulation,
    ema=config.optim.ema,
  )
  shapes = jax.eval_shape(functools.partial(make_state, task, parts.tx))
  placed = sharding.state_shardings(shapes, mesh, task.rules)
  logs.log.info("%s", trees.summary(shapes.trainable, shapes.frozen))
  whole = sharding.replicated(shapes.trainable, mesh, task.rules)
  whole += sharding.replicated(shapes.frozen, mesh, task.rules)
  if whole:
    logs.log.info(
      "%d parameters keep an axis whole that the mesh does not divide, e.g. %s",
      len(whole), whole[0],
    )  # fmt: skip
  shapes = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
  )
  return shapes, parts


def _start(task, folder, checkpoints, shapes, tx):
  """(TrainState, step): from the last good checkpoint, else from the seed."""
  if restored := checkpoints.restore(shapes):
    state, step, data_state = restored
    task.batches.set_state(data_state)
    logs.log.info("resumed %s from step %d", folder.path, step)
    return state, step
  make = functools.partial(make_state, task, tx)
  placed = jax.tree.map(lambda x: x.sharding, shapes)
  # Runs once: optimising hundreds of random generators costs more than it gives.
  on_cpu = jax.default_backend() == "cpu"
  options = {"xla_backend_optimization_level": 0} if on_cpu else {}
  initial = (
    jax.jit(make, out_shardings=placed).lower().compile(compiler_options=options)
  )
  state = initial()
  if jax.process_index() == 0:
    workdir.write_atomically(folder.config, task.config.to_json())
  checkpoints.save_frozen(state.frozen)
  return state, 0


def make_state(task, tx):
  """A fresh TrainState from the seed (traced)."""
  config = task.config
  params = task.init(jax.random.key(config.seed))
  trainable, frozen = trees.split_by_name(params, config.trainable)
  frozen = jax.tree.map_with_path(
    functools.partial(_frozen_dtype, jnp.dtype(config.model.dtype)), frozen
  )
  return train_step.create_state(
    trainable, frozen, tx, seed=config.seed, ema=config.optim.ema
  )


def _frozen_dtype(dtype, path, x):
  """What is frozen is kept in the compute type, except what is small and delicate."""
  return x if path[-1].key in KEEP_FLOAT32 else x.astype(dtype)


def _shape(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _compare_folder(config, folder):
  """(config with what `folder`'s data decided, the step it has reached; 0: a new one).

  Raises UserError when it holds another run than `config` describes.
  """
  steps = folder.steps()
  if not steps:
    return config, 0
  saved = read_config(folder)
  vocab_size = saved.model.overrides.get("llama.vocab_size")
  config = config.fitted(
    vocab_size=vocab_size, max_len=saved.data.max_len, talk_len=saved.data.talk_len
  )
  if found := run_config.first_difference(saved, config):
    name, old, new = found
    raise UserError(
      f"{folder.path} was trained with {name}={old!r}, this config says {new!r}; take"
      f" another --workdir, or --config.{name}={old}"
    )
  return config, steps[-1]


def _options(argv):
  """("--name", value) pairs of `--name=value` and `--name value`."""
  rest = collections.deque(argv)
  while rest:
    name, equals, value = rest.popleft().partition("=")
    if not name.startswith("-"):
      raise UserError(f"miras train: {name!r} is no option (see miras train --help)")
    takes_next = not equals and rest and not rest[0].startswith("--")
    yield name, rest.popleft() if takes_next else value


def _start_jax(config):
  mesh_lib.start_distributed()
  if config.compile_cache:
    jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
  cli.run(main)
