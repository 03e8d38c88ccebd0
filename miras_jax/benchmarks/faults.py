"""Harms a run in every way that is promised to be survived, and says what was.

  miras bench faults                        # 50 kills, 200 flips: some minutes
  miras bench faults --kills=4 --flips=20   # seconds
  miras bench faults --only=flips --seed=3

kills    kill -9 at random moments after the first checkpoint, most of them during a
         save; every restart must go on from a checkpoint at most two intervals old, and
         the finished run must have the rows and the parameters of an undisturbed one
flips    one bit flipped, or a file cut short, in the newest checkpoint: it must be
         named and the step before it used, or the values must not have changed
disk     no room for a save: training goes on with an alarm, older steps stay whole
numbers  NaN once, NaN in a row, a loss spike, data that fail once

Status 1 when anything was not survived. The model is a toy, the loop is the real one.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import pathlib
import random
import signal
import tempfile
import time

import jax
import numpy as np
import tqdm

from miras_jax import logs, options
from miras_jax.benchmarks import toy_run
from miras_jax.checkpoint import reading, store, workdir
from miras_jax.errors import UserError
from miras_jax.options import Parser
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import loop, meters, plan

_PROCESSES = multiprocessing.get_context("forkserver")
# tensorboardX brings torch, where that is installed: seconds, once and not once a life.
_PROCESSES.set_forkserver_preload(["miras_jax.benchmarks.toy_run", "tensorboardX"])
EVERY = 2  # steps between checkpoints
LOST = 2  # intervals that a kill may cost
IN_SAVE = 0.6  # share of the kills that must hit a save,
IN_SAVE_OF = 20  # where there are so many: fewer are too few to tell


def main(argv):
  """`miras bench faults`; returns 1 when a target was missed."""
  parser = Parser(prog="miras bench faults", description=__doc__)
  parser.add_argument("--kills", type=int, default=50)
  parser.add_argument("--flips", type=int, default=200)
  parser.add_argument(
    "--width", type=int, default=1024, help="of the killed model: how long a save takes"
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", choices=tuple(FAULTS), help="one group of faults")
  parser.add_argument("--out", help="JSON file for the numbers")
  args = parser.parse_args(argv)
  logs.to_stderr()
  results = {}
  with tempfile.TemporaryDirectory() as root, _compile_once(pathlib.Path(root)):
    for name in [args.only] if args.only else list(FAULTS):
      folder = pathlib.Path(root) / name
      folder.mkdir()
      results[name] = FAULTS[name](folder, args)
      _print(name, results[name])
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(results, indent=1) + "\n")
  return int(any(result["missed"] for result in results.values()))


def _print(name, result):
  for key, value in result.items():
    print(f"{name:<8} {key:<34} {value}")


def kills(folder, args):
  """Numbers of `args.kills` kills; "missed" lists what was not survived."""
  rng, number = random.Random(args.seed), args.kills
  steps = f"--steps={2 * EVERY * number + 20}"
  options = (steps, f"--every={EVERY}", f"--width={args.width}")
  whole, victim = folder / "undisturbed", workdir.Workdir(folder / "killed")
  missed, lost, in_save = [], [], 0
  if (end := _run(whole, *options)).returncode:
    raise UserError(f"the undisturbed run failed: {end.text[-300:]}")
  for kill in tqdm.tqdm(range(number), desc="kill -9", unit="kill"):
    before = _last_row(victim)
    hit, problem = _kill_once(victim, options, rng, before, lost)
    in_save += hit
    if problem:
      missed.append(f"kill {kill}: {problem}")
  if (end := _run(victim.path, *options)).returncode:
    missed.append(f"the last restart failed: {end.text[-300:]}")
  elif _rows(victim) != _rows(workdir.Workdir(whole)):
    missed.append("the rows of the log differ")
  elif _leaves(victim) != _leaves(workdir.Workdir(whole)):
    missed.append("the parameters differ")
  if number >= IN_SAVE_OF and in_save < IN_SAVE * number:
    missed.append(f"only {in_save} of {number} kills hit a save")
  return {
    "kills": number,
    "during a save": in_save,
    "steps lost at most": max(lost, default=0),
    "steps lost on average": round(float(np.mean(lost)), 2) if lost else 0,
    "steps compared": len(_rows(victim)),
    "missed": missed,
  }


def _kill_once(victim, options, rng, before, lost):
  """Starts the run, kills it; returns (whether a save was hit, what went wrong)."""
  known, left = set(victim.steps()), set(_unfinished(victim))
  life = _Life(victim.path, *options)
  try:
    wait = rng.randrange(3)  # checkpoints that this life may finish
    _until(lambda: " from step " in life.text or not known, life)
    _until(lambda: len(set(victim.steps()) - known) >= max(wait, not known), life)
    if rng.random() < 0.8:
      _until(lambda: set(_unfinished(victim)) - left, life)
      time.sleep(rng.random() * 0.02)
    else:
      time.sleep(rng.random() * 0.3)
  except EOFError:
    done = life.returncode == 0 and "done" in life.text
    return 0, None if done else f"the run ended by itself: {life.text[-300:]}"
  text = life.kill().text
  if before is not None:
    started = [t for t in text.splitlines() if " from step " in t]
    if not started:
      return 0, f"the restart found no checkpoint: {text[-300:]}"
    lost.append(before - int(started[0].split()[-1]))
    if lost[-1] > LOST * EVERY:
      return 0, f"{lost[-1]} steps were lost: {text[-600:]}"
  return int(bool(_unfinished(victim))), None


def _unfinished(folder):
  return list(folder.checkpoints.glob(f"*{workdir.TEMPORARY}*"))


def _until(condition, life):
  """Waits; EOFError when the process ends first."""
  while not condition():
    if life.poll() is not None:
      raise EOFError
    time.sleep(0.001)


def flips(folder, args):
  """Numbers of `args.flips` damaged files."""
  task, shapes, mesh = _prepare(folder)
  rng, counts, missed = random.Random(args.seed), {}, []
  with jax.set_mesh(mesh):
    good = {step: _restore(folder, shapes)[0] for step in _newest_first(folder)}
  _undo(folder)
  for number in tqdm.tqdm(range(args.flips), desc="flips", unit="flip"):
    part = "frozen" if rng.random() < 0.1 else str(max(good))
    files = [p for p in (folder / "checkpoints" / part).rglob("*") if p.is_file()]
    path = _pick(sorted(p for p in files if p.stat().st_size), rng)
    content = path.read_bytes()
    path.write_bytes(_harm(content, rng))
    try:
      with jax.set_mesh(mesh):
        outcome = _outcome(folder, shapes, good, part)
    except Exception as error:  # whatever it is, it is no sentence for a user
      outcome = f"crash {type(error).__name__}"
    _undo(folder)
    path.write_bytes(content)
    counts[outcome] = counts.get(outcome, 0) + 1
    if outcome not in FINE:
      missed.append(f"flip {number} in {path.relative_to(folder)}: {outcome}")
  task.batches.close()
  return {"flips": args.flips, **dict(sorted(counts.items())), "missed": missed}


FINE = ("harmless", "named, step before it used", "frozen: named in one line")


def _pick(files, rng):
  """Half of the time any file, half of the time any byte: metadata and arrays."""
  by_size = [p.stat().st_size for p in files] if rng.random() < 0.5 else None
  return rng.choices(files, by_size)[0]


def _outcome(folder, shapes, good, part):
  newest, before = sorted(good, reverse=True)
  try:
    state, named = _restore(folder, shapes)
  except UserError as error:
    return FINE[2] if part == "frozen" and "frozen" in str(error) else f"error {error}"
  step = int(state.step)
  if step not in good or not _equal(state, good[step]):
    return "SILENTLY WRONG"
  if step == newest:
    return FINE[0]
  return FINE[1] if step == before and named else "silently older"


def _prepare(folder):
  """A run of two checkpoints in `folder`; (task, shapes of its state, mesh)."""
  args = toy_run.parser().parse_args(
    [f"--workdir={folder}", "--steps=4", f"--every={EVERY}"]
  )
  config = toy_run.make_config(args)
  mesh = mesh_lib.make_mesh(config.mesh)
  task = toy_run.make_task(config, args, (0, 1))
  logging.getLogger("miras_jax").setLevel(logging.ERROR)
  loop.train(task, workdir.Workdir(folder), mesh)
  with jax.set_mesh(mesh):
    return task, plan.make_plan(task, mesh)[0], mesh


def _newest_first(folder):
  """Steps, each hidden after it was yielded, so that the one before it is the last."""
  place = workdir.Workdir(folder)
  for step in reversed(place.steps()):
    yield step
    place.step(step).rename(place.step(f"{step}{workdir.DAMAGED}"))


def _undo(folder):
  for path in (folder / "checkpoints").glob(f"*{workdir.DAMAGED}"):
    path.rename(path.with_name(path.name.removesuffix(workdir.DAMAGED)))


def _restore(folder, shapes):
  """(state, whether the log named a damaged step)."""
  named = []
  handler = logging.Handler()
  handler.emit = lambda record: named.append(record.getMessage())
  logger = logging.getLogger("miras_jax")
  before, logger.propagate = logger.propagate, False
  logger.addHandler(handler)
  try:
    with store.Checkpoints(folder, keep=9) as checkpoints:
      state, _, _ = checkpoints.restore(shapes)
  finally:
    logger.removeHandler(handler)
    logger.propagate = before
  return state, any("is damaged" in text for text in named)


def _equal(a, b):
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in pairs)


def _harm(content, rng):
  if rng.random() < 0.25:
    return content[: rng.randrange(len(content))]
  data = bytearray(content)
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  return bytes(data)


def full_disk(folder, _args):
  """A disk that is full for some steps, and one that stays so to the end."""
  missed = []
  options = ("--steps=16", f"--every={EVERY}", "--keep=2", "--width=256")
  _run(folder / "roomy", *options)
  filled = _run(folder / "filled", *options, "--full=6:12")
  alarms = filled.text.count("ALARM")
  same = _rows(workdir.Workdir(folder / "filled")) == _rows(
    workdir.Workdir(folder / "roomy")
  )
  if filled.returncode or not alarms or not same:
    missed.append(f"full for a while: {filled.text[-300:]}")
  stays = _run(folder / "stays", *options, "--full=6:99")
  place = workdir.Workdir(folder / "stays")
  last = [line for line in stays.text.splitlines() if line.startswith("error:")]
  if stays.returncode != 1 or len(last) != 1 or len(_rows(place)) != 16:
    missed.append(f"full to the end: {stays.text[-300:]}")
  try:
    for step in place.steps():
      reading.verify(place.step(step))
  except reading.Damaged as damage:
    missed.append(str(damage))
  return {
    "alarms while it was full": alarms,
    "rows as with room": same,
    "last whole step, full to the end": place.steps()[-1:],
    "steps trained, full to the end": len(_rows(place)),
    "missed": missed,
  }


def numbers(folder, _args):
  """NaN, spikes and failing data."""
  cases = {
    # name: (flags, status, what standard error must say)
    "NaN once": (("--nan=8",), 0, "step 8 skipped"),
    "NaN three times in a row": (("--nan=8", "--nans=3"), 1, "steps in a row"),
    "loss spike": (("--spike=16",), 0, "times the median"),
    "data fail once": (("--broken=8",), 0, "trying again"),
  }
  out, missed = {}, []
  for name, (flags, status, words) in cases.items():
    place = workdir.Workdir(folder / name.replace(" ", "_"))
    end = _run(place.path, "--steps=20", *flags)
    text = end.text.splitlines()
    line = [t for t in text if words in t]
    dumps = len(list(place.path.glob("abort_*.json")))
    fine = end.returncode == status and line and dumps == status
    out[name] = "survived" if fine and not status else "ended with a dump"
    if not fine or "Traceback" in end.text:
      missed.append(f"{name}: status {end.returncode}: {end.text[-300:]}")
  return out | {"missed": missed}


class _Life:
  """A process that runs the toy. Forked from one that has imported everything."""

  def __init__(self, folder, *options):
    self._output = pathlib.Path(f"{folder}.output")
    self._output.unlink(missing_ok=True)  # what the life before it printed
    argv = [f"--workdir={folder}", *options]
    self._process = _PROCESSES.Process(target=_live, args=(argv, str(self._output)))
    self._process.start()

  def poll(self):
    return self._process.exitcode

  def kill(self):
    os.kill(self._process.pid, signal.SIGKILL)
    return self.wait()

  def wait(self):
    self._process.join()
    return self

  @property
  def returncode(self):
    return self._process.exitcode

  @property
  def text(self):
    return self._output.read_text(errors="replace") if self._output.exists() else ""


def _live(argv, output):
  """The body of a life; what it prints goes to a file."""
  out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(out, 1)
  os.dup2(out, 2)
  options.run(toy_run.main, argv)


def _run(folder, *options):
  return _Life(folder, *options).wait()


@contextlib.contextmanager
def _compile_once(folder):
  """Lives share their compiled programs, as restarts on one machine should."""
  names = {
    "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  before = {name: os.environ.get(name) for name in names}
  os.environ.update(names)
  try:
    yield
  finally:
    for name, value in before.items():
      os.environ.pop(name) if value is None else os.environ.update({name: value})


def _rows(folder):
  """The log without what differs between equal runs."""
  if not folder.metrics.exists():
    return []
  rows = []
  for line in folder.metrics.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:  # a kill cut it short
      continue
  return [{k: v for k, v in row.items() if k not in meters.TIMINGS} for row in rows]


def _last_row(folder):
  rows = _rows(folder)
  return rows[-1]["step"] if rows else None


def _leaves(folder):
  return reading.read_table(folder.step(folder.steps()[-1]))


FAULTS = {"kills": kills, "flips": flips, "disk": full_disk, "numbers": numbers}
