"""Trains a model; run the same command again and it resumes by itself.

  miras train --config=configs/prist_quickstart.py --workdir=runs/first
  miras train --config=configs/prist_quickstart.py:size=tiny --workdir=runs/tiny \\
      --config.steps=200 --config.optim.lr=1e-3

--config=FILE[:options]   your config, or the name of one that comes with the package
--workdir=DIR             gets checkpoints/, metrics.jsonl, tensorboard/, tokenizer/;
                          gs://BUCKET/RUN as well (docs/buckets.md)
--config.a.b=VALUE        changes one field; below are all, as a config starts from them
--config.model.overrides.PART.FIELD=VALUE   a size of the model (config/model.py)
--profile=STEP:COUNT      writes a trace of so many steps to WORKDIR/profile

--config.mesh.plan=auto chooses mesh, llama.remat, micro-batches and data.pack by the
memory model of `miras scale`, for the devices that are there (docs/planning.md).

A finished run goes on with more --config.steps, at the rate that --config.optim.extend
says.

SIGTERM, SIGHUP and Ctrl-C save and end with status 0, or with that of
--config.stopped_exit_code; a second Ctrl-C ends at once. A mistake ends with status 1.
With several processes every one runs the same command; how they find each other is in
miras_jax/parallel/distributed.py.
"""

import argparse
import dataclasses
import math
import shutil
import time

import jax

from miras_jax import logs
from miras_jax.checkpoint import executables, lock, workdir
from miras_jax.checkpoint.reading import Damaged, read_config, verify
from miras_jax.config import file as config_file
from miras_jax.config import run as run_config
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError
from miras_jax.models import attention_support
from miras_jax.options import Parser
from miras_jax.parallel import distributed, stop_signal
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning import choice, plan_file
from miras_jax.training import (
  boards,
  init_from,
  initial_state,
  loop,
  meters,
  optim,
  stages,
)
from miras_jax.training.task import make_task


def main(argv) -> int:
  """`miras train ...`; see the module's head."""
  try:
    with stop_signal.ends_at_once():
      return _main(argv)
  except stop_signal.Stopped as stopped:
    print(f"stopped by {stopped}; nothing new to save")
    return parse(argv)[0].stopped_exit_code


def _main(argv):
  config, folder, args = parse(argv)
  boards.require(config.boards)
  logs.to_stderr()
  distributed.start(config.distributed)
  logs.of_process(jax.process_index() if jax.distributed.is_initialized() else 0)
  distributed.require_same("config", run_config.shared_by_processes(config))
  kept = executables.Kept(args.executable) if args.executable else None
  return run(config, folder, profile=args.profile, kept=kept)


def run(config, folder, *, profile=None, kept=None, nested=False) -> int:
  """Trains a RunConfig in a Workdir, from where that is; returns the exit status.

  A run that is refused before it begins leaves no folder behind. nested: one of several
  runs of another command: its time begins here, not with the process, and it has not
  the options of `miras train`.
  """
  began = time.perf_counter() if nested else None
  is_new = distributed.of_first(not folder.path.exists())
  held = lock.hold_together(folder.path, "miras train", folder.make)
  with held, folder.written_by(jax.process_index()):
    try:
      return _run(config, folder, profile, kept, began)
    except UserError:  # under the lock: the folder may be another trainer's by now
      is_new = is_new and not folder.is_remote
      if is_new and distributed.is_first() and not folder.metrics.exists():
        shutil.rmtree(folder.path, ignore_errors=True)
      raise


def _run(config, folder, profile, kept, began):
  config, done = _compare_folder(config, folder)
  if done >= config.steps and _is_whole(folder.step(done)):
    said = f"{folder.path} is already trained to step {done}"
    if began is None:
      said += f"; --config.steps={2 * done} would train on, at the rate that"
      said += " --config.optim.extend says"
    loop.say(said)
    return 0
  if not done:
    initial_state.refuse_random(config)
  if config.compile_cache:
    jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  devices = mesh_lib.make_mesh(config.mesh)
  mesh_lib.check_batch(
    config.batch_size, devices, accumulation=config.optim.accumulation
  )
  attention_support.check(
    config.model.build().llama, devices.shape["tensor"], jax.default_backend(),
    config.model.dtype,
  )  # fmt: skip
  task = make_task(config, folder, host=mesh_lib.data_host(devices))
  mesh_lib.check_length(task.config.data.max_len, devices)
  return loop.train(task, folder, devices, profile=profile, kept=kept, began=began)


def parse(argv) -> tuple[RunConfig, workdir.Workdir, argparse.Namespace]:
  """(RunConfig, Workdir, the other options) of the command line. Raises UserError.

  profile: (first step, count) or None.
  """
  argv, fields = config_file.split_fields(argv)
  args = _parser().parse_args(argv)
  for name in ("config", "workdir"):
    if not getattr(args, name):
      raise UserError(f"miras train: --{name}=... is missing (see miras train --help)")
  if args.profile is not None:
    args.profile = meters.parse_profile(args.profile)
  config = config_file.read(args.config, fields)
  return config, workdir.Workdir(args.workdir), args


def _parser():
  fields = "every field, with the default that a config starts from:\n"
  parser = Parser(
    prog="miras train",
    usage="miras train --config=FILE[:options] --workdir=DIR [--config.a.b=VALUE ...]",
    description=__doc__,
    epilog=fields + config_file.described(),
  )
  parser.add_argument("--config", help="your config, or the name of one of the package")
  parser.add_place("--workdir", help="folder of the run; one that is there goes on")
  parser.add_argument("--profile", help="STEP:COUNT, a trace of so many steps")
  parser.add_path(
    "--executable",
    metavar="DIR",
    help="folder of your own that keeps the compiled programs: a start that finds"
    " those of the same program, versions and devices there does not compile",
  )
  return parser


def _is_whole(step_folder):
  """False for a damaged step: the restore then names it and takes the one before."""
  damaged = False
  try:
    verify(step_folder)
  except Damaged:
    damaged = True
  return not distributed.any_of(damaged)


def _compare_folder(config, folder):
  """(config with what `folder`'s data decided, the step it has reached; 0: a new one).

  Raises UserError when it holds another run than `config` describes.
  """
  steps = distributed.list_of_first(folder.steps())
  if not steps:
    return stages.noted(_planned(init_from.fitted(config))), 0
  saved = read_config(folder)
  config = _planned(init_from.resumed(config, saved), saved)
  config = stages.noted(config, saved)
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
  optim_config = config.optim.with_extension(saved.optim, saved.steps, config.steps)
  config = dataclasses.replace(config, optim=optim_config)
  _tell_rates(folder, saved, config, steps[-1])
  return config, steps[-1]


def _planned(config, saved=None):
  """The config as its `mesh.plan` lays it over the devices, the same in all processes;
  what was chosen and why is said once."""
  config, lines = choice.decide(config, jax.devices(), saved)
  distributed.require_same("plan", plan_file.fields(config) if lines else {})
  for line in lines:
    loop.say(line)
  return config


def _tell_rates(folder, saved, config, step):
  """Says what another number of steps makes of the rate."""
  if saved.steps == config.steps or step >= config.steps:  # at its end already
    return
  rates = [float(optim.make_schedule(c.optim, c.steps)(step)) for c in (saved, config)]
  if config.optim.extended != saved.optim.extended:
    logs.log.warning(
      "steps=%d was %d: optim.extend=%s from step %d on, where the rate is %.3g",
      config.steps, saved.steps, config.optim.extend, saved.steps,
      float(optim.make_schedule(config.optim, config.steps)(saved.steps)),
    )  # fmt: skip
  elif not math.isclose(*rates, rel_tol=1e-3):
    logs.log.warning(
      "steps=%d was %d: the schedule is stretched, the rate at step %d is %.3g instead"
      " of %.3g; --config.optim.extend=hold goes on at the last rate, rewarm warms up"
      " again; for a rate of your choice start another --workdir with"
      " --config.init_from=%s",
      config.steps, saved.steps, step, rates[1], rates[0], folder.path,
    )  # fmt: skip
