"""Trains a model; run the same command again and it resumes by itself.

  miras train --config=configs/prist_quickstart.py --workdir=runs/first
  miras train --config=configs/prist_quickstart.py:size=tiny --workdir=runs/tiny \\
      --config.steps=200 --config.optim.lr=1e-3

--config=FILE[:options]   your config, or the name of one that comes with the package
--workdir=DIR             gets checkpoints/, metrics.jsonl, tensorboard/, tokenizer/
--config.a.b=VALUE        changes one field; below are all, as a config starts from them
--config.model.overrides.PART.FIELD=VALUE   a size of the model (config/model.py)
--profile=STEP:COUNT      writes a trace of so many steps to WORKDIR/profile

SIGTERM saves and ends with status 0. With several processes every one runs the same
command; how they find each other is in miras_jax/parallel/distributed.py.
"""

import collections
import functools
import math
import time

import jax

from miras_jax import cli, logs
from miras_jax.checkpoint import disk_full as disk
from miras_jax.checkpoint import workdir
from miras_jax.checkpoint.store import Checkpoints, Damaged, read_config, verify
from miras_jax.config import file as config_file
from miras_jax.config import run as run_config
from miras_jax.config.run import RunConfig
from miras_jax.data import cache as data_cache
from miras_jax.errors import UserError
from miras_jax.models import attention_support as fits
from miras_jax.models import trees
from miras_jax.parallel import distributed, sharding
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel.compiled import Program
from miras_jax.training import anomalies as watch
from miras_jax.training import init_from, meters, optim
from miras_jax.training import initial_state as fresh
from miras_jax.training import step as train_step
from miras_jax.training.task import make_task

# The loop reads a step's numbers this many steps later: the device never waits for it.
LAG = 2
# A batch that cannot be made is tried again so many times, with new threads.
DATA_RETRIES = 2
STARTED = time.perf_counter()


def main(argv):
  """`miras train ...`; see the module's head."""
  arguments = parse(argv)
  if arguments is None:
    print(f"{__doc__}\n{config_file.described()}")
    return 0
  logs.to_stderr()
  config, folder, profile = arguments
  distributed.start(config.distributed)
  logs.of_process(jax.process_index() if jax.distributed.is_initialized() else 0)
  distributed.require_same("config", run_config.shared_by_processes(config))
  return run(config, folder, profile=profile)


def run(config, folder, *, profile=None):
  """Trains a RunConfig in a Workdir, from where that is; returns 0."""
  folder.make()
  config, done = _compare_folder(config, folder)
  if done >= config.steps and _is_whole(folder.step(done)):
    _say(
      f"{folder.path} is already trained to step {done};"
      f" --config.steps={2 * done} would train on"
    )
    return 0
  if config.compile_cache:
    jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  devices = mesh_lib.make_mesh(config.mesh)
  mesh_lib.check_batch(
    config.batch_size, devices, accumulation=config.optim.accumulation
  )
  fits.check(config.model.build().llama, devices.shape["tensor"], jax.default_backend())
  task = make_task(config, folder, host=mesh_lib.data_host(devices))
  return train(task, folder, devices, profile=profile)


def parse(argv):
  """(RunConfig, Workdir, profile) of the command line, or None for --help.

  profile: (first step, count) or None. Raises UserError.
  """
  options = list(_options(argv))
  names = [name for name, _ in options]
  if "--help" in names or "-h" in names:
    return None
  known = ("--config", "--workdir", "--profile")
  for name in names:
    if name not in known and not name.startswith("--config."):
      raise UserError(f"miras train: unknown option {name}{cli.nearest(name, known)}")
  values = dict(options)
  for name in known[:2]:
    if not values.get(name):
      raise UserError(f"miras train: {name}=... is missing (see miras train --help)")
  config = config_file.load(values["--config"])
  for name, value in options:
    if name.startswith("--config."):
      config_file.override(config, name.removeprefix("--config."), value)
  profile = values.get("--profile")
  profile = meters.parse_profile(profile) if profile is not None else None
  folder = workdir.Workdir(values["--workdir"])
  return RunConfig.from_config_dict(config), folder, profile


def train(task, folder, mesh, *, profile=None):
  """Trains `task` in `folder` until its config's last step or SIGTERM; returns 0."""
  config = task.config
  distributed.require_same("data", task.batches.get_state())
  # Listens from here on: a signal in a long restore or compile stops before a step.
  listen, save = distributed.StopSignal(), Checkpoints(folder.path, keep=config.keep)
  with listen as stop, jax.set_mesh(mesh), save as checkpoints:
    shapes, parts = plan(task, mesh)
    state, start = _start(task, folder, checkpoints, shapes, parts.tx)
    if task.features:
      data_cache.check(task.features, config, state.frozen)
    log_file = logs.Logs(
      folder,
      start_step=start,
      total=config.steps,
      tensorboard_every=config.log_every,
      enabled=distributed.is_first(),
    )
    with log_file:
      loop = _Loop(task, mesh, parts, checkpoints, log_file, folder, profile)
      step = loop.run(state, start, stop)
  task.batches.close()
  distributed.barrier("end")
  why = "done" if step >= config.steps else "stopped by SIGTERM; run it again to go on"
  _say(f"{folder.path}: step {step} of {config.steps}, {why}")
  return 0


def _say(text):
  if distributed.is_first():
    print(text)


class _Loop:
  """Step, probe, log, save. What changes during a run is here or in the TrainState."""

  def __init__(self, task, mesh, parts, checkpoints, log_file, folder, profile):
    self.config = task.config
    self.batches = task.batches
    self.probe_batch = task.probe
    self.parts = parts
    self.checkpoints = checkpoints
    self.log_file = log_file
    self.sharding = sharding.batch_sharding(mesh)
    self.pending = collections.deque()
    self.watch = watch.Watch(folder, max_skipped=task.config.max_skipped)
    self.meters = meters.Meters(
      started=STARTED, shares=mesh_lib.data_host(mesh)[1], flops=task.flops
    )
    first, count = profile or (0, 0)
    self.profile = meters.Profile(folder.path / "profile", first, count)
    self.last = {}

  def run(self, state, step, stop):
    """Runs on from `step`; returns the step it ended at, which is then saved."""
    config = self.config
    if step >= config.steps:
      return step
    consumed = self.batches.get_state()
    batch, notes = self._next()
    train_program, probe_program = self._compile(state, batch)
    self.checkpoints.prepare(state)
    self.meters.begin()
    while step < config.steps and not stop(step):
      step += 1
      self.profile.before(step)
      state, metrics = train_program(state, batch)
      self.profile.after(step, metrics)
      last = step == config.steps
      if probe_program and (last or step % config.probe_every == 0):
        probe = probe_program(state, self.probe_batch)
        metrics |= {f"probe_{k}": v for k, v in probe.items()}
      self.pending.append((step, metrics, notes))
      consumed = self.batches.get_state()
      if not last:  # while the device works
        batch, notes = self._next()
      self._flush(LAG)
      if not last and step % config.checkpoint_every == 0:
        self._save_or_go_on(step, state, consumed)
    self.profile.close()
    if step:
      self._save(step, state, consumed)
    return step

  def _next(self):
    """(global batch on the devices, {what the log says about it})."""
    start = time.perf_counter()
    batch = self._next_or_again()
    waited = time.perf_counter() - start
    notes = {
      "data_wait_s": waited,
      "tokens": int((batch["segments"] > 0).sum()) if "segments" in batch else 0,
      "record": self.batches.records(batch),
    }
    return self._put(batch), notes

  def _next_or_again(self):
    """The next batch; after an error with new threads, from the same place on."""
    place = self.batches.get_state()
    for attempt in range(DATA_RETRIES + 1):
      try:
        return next(self.batches)
      except (UserError, StopIteration):
        raise
      except Exception as error:  # whatever a file system or a decoder makes of it
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if attempt == DATA_RETRIES:
          raise UserError(
            f"the data at {place} failed {attempt + 1} times: {text}; see that"
            " config.data.dir can be read, then run the same command again"
          ) from error
        logs.log.warning("the data at %s failed, trying again: %s", place, text)
        self.batches.set_state(place)

  def _put(self, batch):
    return {
      k: jax.make_array_from_process_local_data(self.sharding, v)
      for k, v in batch.items()
    }

  def _compile(self, state, batch):
    """(train program, probe program or None); moves the probe batch to the devices."""
    shapes = jax.tree.map(_shape, state)
    train_jit = jit_train_step(self.parts, shapes)
    batch_shapes = jax.tree.map(_shape, batch)
    train_program = Program("train_step", train_jit, shapes, batch_shapes)
    if self.probe_batch is None:
      return train_program, None
    self.probe_batch = self._put(self.probe_batch)
    probe_jit = jit_eval_step(self.parts, shapes)
    probe_shapes = jax.tree.map(_shape, self.probe_batch)
    return train_program, Program("probe_step", probe_jit, shapes, probe_shapes)

  def _flush(self, lag):
    """Writes the numbers of all but the newest `lag` steps."""
    while len(self.pending) > lag:
      step, metrics, notes = self.pending.popleft()
      numbers = {k: float(v) for k, v in jax.device_get(metrics).items()}
      self.last = numbers
      self.log_file.write(step, numbers | self.meters.step(notes))
      self.watch(step, numbers, notes["record"])

  def _save_or_go_on(self, step, state, data_state):
    """Saves; a full disk is an alarm, since the steps saved before it are whole."""
    self._flush(0)  # waits for steps, not for the save
    start = time.perf_counter()
    try:
      self._save(step, state, data_state)
    except disk.DiskFull as error:
      logs.log.error("ALARM %s; training goes on", error)
    self.meters.idle(time.perf_counter() - start)

  def _save(self, step, state, data_state):
    self._flush(0)  # so that a checkpoint never lacks the rows before it
    finite = {k: v for k, v in self.last.items() if math.isfinite(v)}
    self.checkpoints.save(step, state, data_state=data_state, metrics=finite)


def jit_train_step(parts, state_shapes):
  """The jitted step of a TrainState with these shapes and shardings, which it donates.

  What `miras train` runs and `miras scale` weighs.
  """
  shardings = jax.tree.map(lambda x: x.sharding, state_shapes)
  return jax.jit(
    functools.partial(train_step.train_step, parts=parts),
    out_shardings=(shardings, sharding.replicated_sharding(shardings.step.mesh)),
    donate_argnums=0,
  )


def jit_eval_step(parts, state_shapes):
  """The jitted `train_step.eval_step`: losses and metrics without an update."""
  whole = sharding.replicated_sharding(state_shapes.step.sharding.mesh)
  return jax.jit(
    functools.partial(train_step.eval_step, parts=parts), out_shardings=whole
  )


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
  shapes = jax.eval_shape(functools.partial(fresh.make_state, task, parts.tx))
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
  """(TrainState, step): of the last good checkpoint, else a fresh one."""
  if restored := checkpoints.restore(shapes):
    state, step, data_state = restored
    task.batches.set_state(data_state)
    logs.log.info("resumed %s from step %d", folder.path, step)
  else:
    state, step = fresh.load(task, shapes, tx), 0
  if distributed.is_first():  # steps, mesh and places may differ from the last time
    workdir.write_atomically(folder.config, task.config.to_json())
  if not step:
    checkpoints.save_frozen(state.frozen)
  return state, step


def _is_whole(step_folder):
  """False for a damaged step: the restore then names it and takes the one before."""
  damaged = False
  try:
    verify(step_folder)
  except Damaged:
    damaged = True
  return not distributed.any_of(damaged)


def _shape(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _compare_folder(config, folder):
  """(config with what `folder`'s data decided, the step it has reached; 0: a new one).

  Raises UserError when it holds another run than `config` describes.
  """
  steps = folder.steps()
  if not steps:
    return init_from.fitted(config), 0
  saved = read_config(folder)
  config = init_from.resumed(config, saved)
  vocab_size = saved.model.overrides.get("llama.vocab_size")
  config = config.fitted(
    vocab_size=vocab_size, max_len=saved.data.max_len, talk_len=saved.data.talk_len
  )
  if found := run_config.first_difference(saved, config):
    name, old, new = found
    was, keep = f"with {name}={old!r}", f"--config.{name}={old}"
    if old is None:  # an override that it did not have
      was, keep = f"without {name}", f"leave --config.{name} out"
    raise UserError(
      f"{folder.path} was trained {was}, this config says {new!r}; take another"
      f" --workdir, or {keep}"
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


if __name__ == "__main__":
  cli.run(main)
