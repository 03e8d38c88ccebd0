"""Trains and scores the arms of an experiment; what is there is not made again.

OUT/data, OUT/tokenizer       of all experiments
OUT/named, OUT/alone          lists made of the data: stage 1, requests without history
OUT/runs/NAME/STAGE           a training folder
OUT/runs/NAME/scored-LIMIT-HISTORY   what `miras eval` made of it
"""

import contextlib
import json
import os
import pathlib
import re
from typing import NamedTuple

from input_pipeline import open_source
from input_pipeline.prepare import synth
from miras_jax.checkpoint import workdir
from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.evaluation import command as evaluation
from miras_jax.experiment import catalogue, derived
from miras_jax.inference.load import find_identity
from miras_jax.training import command as training
from miras_jax.training import sources, task

CONFIG = "prist_quickstart"
SCORED = "scored.json"  # written last: what was scored
MOST_WARMUP = 100
OWN = {  # fields that a run gets here, whatever the command line says
  "data.dir": "is --data",
  "data.tokenizer": "is shared by all runs",
  "optim.warmup_steps": "follows --steps",
  "checkpoint_every": "follows --steps",
  "probe_every": "follows --steps",
  "keep": "is 1",
  "steps": "is --steps",
  "seed": "is counted by --seeds",
}
SHORT = 6  # short talks about each image, as the quickstart has them


class Setup(NamedTuple):
  """What all arms share. fields: [("a.b", "VALUE")] of the command line."""

  out: pathlib.Path
  data: pathlib.Path
  steps: int
  limit: int
  fields: tuple = ()
  split: str = "val"


class Job(NamedTuple):
  """One arm with one seed. name: of its training, equal for arms that train alike."""

  arm: catalogue.Arm
  seed: int
  name: str


def jobs(name, experiment, seeds, steps) -> list[Job]:
  """Every arm with every seed, seed by seed: what is there early compares all arms."""
  return [
    Job(arm, seed, f"{_label(name, arm)}-{steps}-seed{seed}")
    for seed in range(seeds)
    for arm in experiment.arms
  ]


def _label(name, arm):
  if not arm.fields and arm.stages == catalogue.Arm("", "").stages:
    return "base"
  return re.sub(r"[^\w.]+", "_", f"{name}.{arm.like or arm.name}")


def make_data(out, conversations, edits=0.0) -> pathlib.Path:
  """The rendered data set of all experiments in a folder, or of those with edits."""
  folder = out / ("data_edits" if edits else "data")
  folder.mkdir(parents=True, exist_ok=True)
  synth.generate(folder, conversations, seed=0, short=SHORT, edits=edits)
  return folder


def tokenizer_of(setup) -> pathlib.Path:
  """What all runs on one data set share, whichever experiment comes first; that of the
  model where they begin with one (`--config.init_from`)."""
  if begun := dict(setup.fields).get("init_from"):
    if not (found := pathlib.Path(begun) / "tokenizer").is_dir():
      # Nothing may be written there, as to a folder of our own.
      raise UserError(f"--config.init_from={begun}: no {found}; want a training folder")
    return found
  edited = setup.data == setup.out / "data_edits"
  return setup.out / ("tokenizer_edits" if edited else "tokenizer")


def prepare(setup: Setup, arms, *, grouped=False) -> Setup:
  """Writes the lists that arms need and the tokenizer that all of them share.

  grouped: the masks of the data are read as files.
  """
  if open_source.resolve(setup.data)[0] == open_source.DEFAULT:
    _write_lists(setup, arms)
  elif grouped or any(map(_needs_lists, arms)):
    raise UserError(
      f"--data={setup.data}: this experiment reads more than conversations of a data"
      " set; it wants one in PRIST's layout"
    )
  else:
    open_source.open_source(setup.data, setup.split)
  config = config_file.read(CONFIG, _fields(setup, {"data.dir": setup.data}))
  source = sources.open_split(config, config.data.split_train)
  task.open_tokenizer(config.data, tokenizer_of(setup), source)
  return setup


def _needs_lists(arm):
  named = any(data == catalogue.NAMED for data, _ in arm.stages)
  return named or arm.history == catalogue.NONE


def _write_lists(setup, arms):
  train = derived.read_list(setup.data, "train")
  held_out = derived.read_list(setup.data, setup.split)
  if any(data == catalogue.NAMED for arm in arms for data, _ in arm.stages):
    lists = {"train": derived.named(train), setup.split: derived.named(held_out)}
    derived.write(setup.out / catalogue.NAMED, lists)
  if any(arm.history == catalogue.NONE for arm in arms):
    lists = {setup.split: derived.alone(held_out[: setup.limit])}
    derived.write(setup.out / "alone", lists)


def _fields(setup, own):
  """Fields of a run: those of the command line, then its own."""
  return [*setup.fields, *((name, str(value)) for name, value in own.items())]


def train(job: Job, setup: Setup) -> pathlib.Path:
  """Trains the stages of a job from where they are; the last one's folder.

  Raises KeyboardInterrupt where a signal stopped it: run again, it goes on.
  """
  before = None
  for number, (data, share) in enumerate(job.arm.stages):
    folder = workdir.Workdir(setup.out / "runs" / job.name / f"stage{number}")
    steps = max(1, round(share * setup.steps))
    config = config_file.read(CONFIG, _stage(job, setup, data, steps, before))
    training.run(config, folder, nested=True)
    if folder.steps()[-1:] != [steps]:
      raise KeyboardInterrupt
    before = folder.path
  return before


def _stage(job, setup, data, steps, before):
  own = {
    "data.tokenizer": tokenizer_of(setup),
    "optim.warmup_steps": max(1, min(MOST_WARMUP, steps // 6)),
    "checkpoint_every": max(1, steps // 3),
    "keep": 1,
    "probe_every": max(1, steps // 10),
    "steps": steps,
    "seed": job.seed,
    **job.arm.fields,
    **_data_fields(setup, data),
  }
  if before:
    own["init_from"] = before
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # seeds have one program
    own["compile_cache"] = setup.out / "programs"
  return _fields(setup, own)


def _data_fields(setup, data):
  if data == catalogue.TALKS:
    return {"data.dir": setup.data}
  folders = {f"data.{name}_dir": setup.data / name for name in ("images", "masks")}
  return {"data.dir": setup.out / data, **folders}


def score(job: Job, setup: Setup, trained) -> pathlib.Path:
  """Scores a job's run on held-out data; the folder of `miras eval`."""
  seen = job.arm.state
  about = job.arm.history if seen == catalogue.OWN else f"{job.arm.history}-{seen}"
  out = setup.out / "runs" / job.name / f"scored-{setup.limit}-{about}"
  wanted = {"limit": setup.limit, "split": setup.split, "data": str(setup.data)}
  wanted["parameters"] = find_identity(trained)
  with contextlib.suppress(OSError, ValueError):
    if json.loads((out / SCORED).read_text()) == wanted:
      return out
  argv = [f"--checkpoint={trained}", f"--split={setup.split}", f"--out={out}"]
  argv += [] if seen == catalogue.OWN else [f"--state={seen}"]
  argv += ["--no_controls", "--examples=4", *_scored_data(job.arm.history, setup)]
  out.mkdir(parents=True, exist_ok=True)
  with open(out / "eval.log", "w", encoding="utf-8") as log:
    with contextlib.redirect_stdout(log):
      evaluation.main(argv)
  workdir.write_atomically(out / SCORED, json.dumps(wanted) + "\n")
  return out


def scored_folders(history, setup) -> tuple[pathlib.Path, dict]:
  """(data set, folders of its pictures and masks that lie elsewhere) of a history."""
  if history != catalogue.NONE:
    return setup.data, {}
  folders = {f"{name}_dir": setup.data / name for name in ("images", "masks")}
  return setup.out / "alone", folders


def _scored_data(history, setup):
  place, folders = scored_folders(history, setup)
  argv = [f"--data={place}"]
  argv += [f"--{name.replace('_', '-')}={path}" for name, path in folders.items()]
  if history == catalogue.NONE:
    return argv  # written for these conversations alone
  model = "gold" if history == catalogue.GOLD else "model"
  return [*argv, f"--limit={setup.limit}", f"--history={model}"]
