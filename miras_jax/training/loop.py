"""The loop: step, probe, log, save, until the last step or a signal."""

import collections
import dataclasses
import math
import time

import jax

from miras_jax import logs
from miras_jax.checkpoint import disk_full, workdir
from miras_jax.checkpoint.store import Checkpoints
from miras_jax.errors import UserError
from miras_jax.parallel import distributed, sharding, stop_signal
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import anomalies, features, goodput, initial_state, meters
from miras_jax.training import stages as stages_lib
from miras_jax.training.metrics_log import MetricsLog
from miras_jax.training.plan import compile_steps, make_plan

# The loop reads a step's numbers this many steps later: the device never waits for it.
LAG = 2
# A batch that cannot be made is tried again so many times, with new threads.
DATA_RETRIES = 2
STARTED = time.perf_counter()


def train(task, folder, mesh, *, profile=None, kept=None, began=None) -> int:
  """Trains `task` in `folder` until its config's last step or a signal.

  kept: `executables.Kept` of its programs, or None. began: `perf_counter` at which the
  run began, None: with the process. Returns the exit status: 0 after the last step,
  else config.stopped_exit_code.
  """
  config = task.config
  distributed.require_same("data", task.batches.get_state())
  account = goodput.Goodput(
    folder.metrics,
    age=time.perf_counter() - (STARTED if began is None else began),
    alive_until=0.0 if folder.is_remote else goodput.last_written(folder.metrics),
    enabled=distributed.is_first(),
  )
  # Listens from here on: a signal in a long restore or compile stops before a step.
  listen = stop_signal.StopSignal()
  save = Checkpoints(folder.path, keep=config.keep, tokenizer=task.tokenizer)
  with listen as stop, jax.set_mesh(mesh), save as checkpoints:
    shapes, parts = make_plan(task, mesh)
    state, start = _start(task, folder, checkpoints, shapes, parts.tx, account)
    if task.features:
      features.check(task.features, config, state.frozen)
    log_file = MetricsLog(
      folder,
      start_step=start,
      total=config.steps,
      board_every=config.log_every,
      boards=config.boards,
      config=dataclasses.asdict(config),
      enabled=distributed.is_first(),
    )
    with log_file:
      loop = _Loop(
        task, mesh, parts, checkpoints, log_file, folder, account, profile, kept
      )
      step = loop.run(state, start, stop)
    with account.during("save"):
      checkpoints.wait()
  task.batches.close()
  distributed.barrier("end")
  stopped = f"stopped by {listen.name}; run it again to go on"
  account.save(step)
  is_done = step >= config.steps
  why = "done" if is_done else stopped
  say(goodput.sentence(account.total()))
  say(f"{folder.path}: step {step} of {config.steps}, {why}")
  return 0 if is_done else config.stopped_exit_code


def _push(folder):
  """What a run in a bucket has written so far is in it when this returns."""
  if folder.is_remote:
    distributed.together(folder.push)


def say(text) -> None:
  """Prints a line, in the first process only."""
  if distributed.is_first():
    print(text)


def _start(task, folder, checkpoints, shapes, tx, account):
  """(TrainState, step): of the last good checkpoint, else a fresh one."""
  with account.during("restore"):
    restored = checkpoints.restore(shapes)
  if restored:
    state, step, data_state = restored
    task.batches.set_state(data_state)
    logs.log.info("resumed %s from step %d", folder.path, step)
  else:
    state, step = initial_state.load(task, shapes, tx), 0
  if distributed.is_first():  # steps, mesh and places may differ from the last time
    workdir.write_atomically(folder.config, task.config.to_json())
  _push(folder)
  if not step:
    checkpoints.save_frozen(state.frozen)
  return state, step


class _Loop:
  """Step, probe, log, save. What changes during a run is here or in the TrainState."""

  def __init__(
    self, task, mesh, parts, checkpoints, log_file, folder, account, profile, kept
  ):
    self.config = task.config
    self.task = task
    self.batches = task.batches
    self.probe_batch, self.placed = task.probe, False
    self.parts = parts
    self.checkpoints = checkpoints
    self.log_file = log_file
    self.mesh = mesh
    self.pending = collections.deque()
    self.watch = anomalies.Watch(folder, max_skipped=task.config.max_skipped)
    self.account = account
    self.meters = meters.Meters(shares=mesh_lib.data_host(mesh)[1])
    first, count = profile or (0, 0)
    self.folder = folder
    self.profile = meters.Profile(folder.local / "profile", first, count)
    self.last = {}
    self.kept = kept

  def run(self, state, step, stop):
    """Runs on from `step`, stage by stage; returns the step it ended at, which is then
    saved."""
    for stage in stages_lib.left(self.config, step):
      state, step = self._run_stage(stage, state, step, stop)
      if step < stage.end or (step < self.config.steps and stop(step)):
        break
    return step

  def _run_stage(self, stage, state, step, stop):
    """(state, step) at the end of a stage, or where a signal stopped it."""
    config, end = self.config, stage.end
    if len(stages_lib.of(config)) > 1:
      self.batches.enter(stage.name)
      self.log_file.enter(stage.name)
    consumed = self.batches.get_state()
    batch, notes = self._next()
    with stop.during("the compile"), self.account.during("compile"):
      programs = self._compile(stage, state, batch, ends=lambda: stop(step))
    train_program, probe_program = programs
    self.checkpoints.prepare(state)
    self.meters.begin()
    self.account.begin()
    while step < end and not stop(step):
      step += 1
      self.profile.before(step)
      state, metrics = train_program(state, batch)
      self.profile.after(step, metrics)
      last = step == end
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
    return state, step

  def _next(self):
    """(global batch on the devices, {what the log says about it})."""
    start = time.perf_counter()
    batch = self._next_or_again()
    waited = time.perf_counter() - start
    self.account.spend("data_wait", waited)
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
    placed = sharding.batch_shardings(self.mesh, batch)
    return {
      k: jax.make_array_from_process_local_data(placed[k], v) for k, v in batch.items()
    }

  def _compile(self, stage, state, batch, ends):
    """(train program, probe program or None) of a stage; moves the probe batch to the
    devices. ends: whether the run ends before its next step."""
    if self.probe_batch is not None and not self.placed:
      self.probe_batch, self.placed = self._put(self.probe_batch), True
    parts, talks = self.parts, stage.name == stages_lib.TALKS
    if stage.name == stages_lib.PARTS:
      parts = parts._replace(objective=self.task.parts)
    self.meters.flops = self.task.flops if talks else None  # of the others: not counted
    shapes = (jax.tree.map(_shape, x) for x in (state, batch, self.probe_batch))
    suffix = "" if talks else f"_{stage.name}"
    more = {"kept": self.kept, "suffix": suffix, "ends": ends}
    return compile_steps(parts, self.mesh, *shapes, **more)

  def _flush(self, lag):
    """Writes the numbers of all but the newest `lag` steps."""
    while len(self.pending) > lag:
      step, metrics, notes = self.pending.popleft()
      numbers = {k: float(v) for k, v in jax.device_get(metrics).items()}
      numbers = _of_present(numbers)
      self.last = numbers
      speed = self.meters.step(notes) | {"goodput": self.account.useful()}
      self.log_file.write(step, numbers | speed)
      self.watch(step, numbers, notes["record"])

  def _save_or_go_on(self, step, state, data_state):
    """Saves; a full disk is an alarm, since the steps saved before it are whole."""
    self._flush(0)  # waits for steps, not for the save
    if self.watch.skipped:  # with keep=1 it would replace the last good one
      logs.log.warning("step %d is not saved: it is one of those skipped", step)
      return
    start = time.perf_counter()
    try:
      self._save(step, state, data_state)
    except disk_full.DiskFull as error:
      logs.log.error("ALARM %s; training goes on", error)
    self.meters.idle(time.perf_counter() - start)

  def _save(self, step, state, data_state):
    self._flush(0)  # so that a checkpoint never lacks the rows before it
    with self.account.during("save"):
      self.account.save(step)
      self.log_file.note(step, self.account.noted())
      _push(self.folder)
      self._save_state(step, state, data_state)

  def _save_state(self, step, state, data_state):
    finite = {k: v for k, v in self.last.items() if math.isfinite(v)}
    self.checkpoints.save(step, state, data_state=data_state, metrics=finite)


def _of_present(numbers):
  """Leaves out "loss/vqa" and the like where the batch has no example of `vqa`."""
  absent = {
    (name.startswith("probe_"), name.partition("/")[2])
    for name, value in numbers.items()
    if name.removeprefix("probe_").startswith("examples/") and not value
  }
  return {
    name: value
    for name, value in numbers.items()
    if "examples/" in name
    or (name.startswith("probe_"), name.partition("/")[2]) not in absent
  }


def _shape(x):
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
