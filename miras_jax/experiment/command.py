"""Experiments of the paper, each a command: trains every arm, scores it, compares.

  miras experiment list
  miras experiment encoders --out=experiments
  miras experiment stages --seeds=5 --steps=2000 --out=experiments

Arms are the quickstart's model on rendered conversations, so small that an experiment
is meant to take half an hour on two quiet cores (`state`, four models, longer): they
show the method's parts at work, and are no measure of the published model. --data=DIR
takes another data set instead, in PRIST's layout or built, with train and val;
--config.a.b=VALUE changes every arm alike. Run again after a kill, it goes on;
experiments with one --out share data and runs that train alike.

OUT/NAME/result.json   every number; OUT/NAME/index.html   tables and plots
"""

import collections
import json
import pathlib
import sys

import numpy as np
import tqdm

from input_pipeline import prepared, regular_file
from miras_jax.checkpoint import lock, workdir
from miras_jax.compare import data_set
from miras_jax.compare.result import number
from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.evaluation import provenance
from miras_jax.evaluation.report.markup import plural
from miras_jax.experiment import groups, page, runs, summary
from miras_jax.experiment.catalogue import EXPERIMENTS
from miras_jax.options import Parser, nearest

SHOWN = ("ciou", "giou", "rouge_l")
MOST_RESAMPLES = 100_000  # each holds a number an image


def main(argv):
  """`miras experiment NAME`; see the module's head."""
  argv, fields = config_file.split_fields(argv)
  args = _parser().parse_args(argv)
  if args.name == "list":
    print("\n".join(listing()))
    return 0
  if args.name not in EXPERIMENTS:
    raise UserError(f"no experiment {args.name!r}{nearest(args.name, EXPERIMENTS)}")
  _check(args)
  experiment = EXPERIMENTS[args.name]
  _check_fields(fields, experiment)
  out = pathlib.Path(args.out)
  try:
    (out / args.name).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={out} cannot be made: {error.strerror}") from None
  with lock.hold(out, "miras experiment"), prepared.shared():
    result = run(args.name, experiment, args, fields)
  text = json.dumps(result, indent=1, allow_nan=False)
  workdir.write_atomically(out / args.name / "result.json", text + "\n")
  workdir.write_atomically(out / args.name / "index.html", page.render(result))
  print("\n".join(lines(result)))
  print(out / args.name / "index.html")
  return 0


def _parser():
  parser = Parser(
    prog="miras experiment",
    description=__doc__,
    epilog="experiments:\n" + "\n".join(listing()),
  )
  add, path = parser.add_argument, parser.add_path
  add("name", metavar="NAME", help="of the experiment; list: what there is")
  path("--out", default="experiments", help="folder of all experiments (experiments)")
  add("--steps", type=int, help="of each run (what half an hour allows)")
  add("--seeds", type=int, help="runs of each arm (3)")
  add("--limit", type=int, default=150, help="conversations to score (150)")
  add("--conversations", type=int, default=12_000, help="to render (12000)")
  path("--data", help="a data set with train and val, instead of rendered ones")
  add("--resamples", type=int, default=2000, help="bootstrap and permutations (2000)")
  return parser


def listing() -> list[str]:
  """A line an experiment, and one an arm."""
  out = []
  for name, experiment in EXPERIMENTS.items():
    out.append(f"  {name}: {experiment.question}")
    out += [f"      {arm.name:20}{arm.about}" for arm in experiment.arms]
  return out


def _check(args):
  for name in ("steps", "seeds", "limit", "conversations", "resamples"):
    if (value := getattr(args, name)) is not None and value < 1:
      raise UserError(f"--{name}={value} must be at least 1")
  if args.resamples > MOST_RESAMPLES:
    raise UserError(f"--resamples={args.resamples} must be at most {MOST_RESAMPLES:,}")


def _check_fields(fields, experiment):
  """UserError for a field that would change nothing: an arm has its own value."""
  by_arms = {name: "is what its arms differ in" for a in experiment.arms
             for name in a.fields}  # fmt: skip
  fixed = runs.OWN | by_arms
  for name, _ in fields:
    if name in fixed:
      raise UserError(f"--config.{name}: {fixed[name]} in this experiment")


def run(name, experiment, args, fields) -> dict:
  """Trains and scores what is not there yet; the object of result.json."""
  out, steps = pathlib.Path(args.out), args.steps or experiment.steps
  seeds = args.seeds or experiment.seeds
  data = pathlib.Path(args.data) if args.data else None
  data = data or runs.make_data(out, args.conversations, experiment.edits)
  setup = runs.Setup(out, data, steps, args.limit, tuple(fields))
  runs.prepare(setup, experiment.arms, grouped=experiment.grouped)
  scored = {arm.name: [] for arm in experiment.arms}
  todo = runs.jobs(name, experiment, seeds, steps)
  with tqdm.tqdm(todo, name, unit="run", file=sys.stderr, disable=None) as bar:
    for job in bar:
      bar.set_postfix_str(f"{job.arm.name}, seed {job.seed}")
      trained = runs.train(job, setup)
      scored[job.arm.name].append(runs.score(job, setup, trained))
  reads = {
    arm.name: [summary.Read(place, _data(setup, arm)) for place in scored[arm.name]]
    for arm in experiment.arms
  }
  result = {
    "experiment": name,
    "question": experiment.question,
    "steps": steps,
    "seeds": seeds,
    "conversations": args.limit,
    "data": str(data),
    "fields": dict(fields),
    "provenance": _provenance(),
    "arms": summary.arms(reads, resamples=args.resamples, seed=0),
    "groups": {},
  }
  for row, arm in zip(result["arms"], experiment.arms, strict=True):
    row |= {"about": arm.about, "fields": {k: str(v) for k, v in arm.fields.items()}}
    if experiment.edits:
      row["state"] = state_means(scored[arm.name])
  if experiment.grouped:
    found = next(iter(reads.values()))
    result["groups"] = groups.of_runs(found, data / "masks", args.resamples)
  return result


def _provenance():
  """Commit, versions and device; no date, for the same runs give the same file."""
  found = provenance.collect(seed=0)
  return {name: found[name] for name in ("commit", "versions", "device")}


def state_means(folders) -> dict:
  """{measure of earlier masks: mean over the seeds that have it, None where none has}
  of `miras eval`'s folders."""
  found = collections.defaultdict(list)
  for folder in folders:
    for name, metric in _measured(folder).items():
      found[name] += [] if metric["value"] is None else [metric["value"]]
  return {name: float(np.mean(x)) if x else None for name, x in found.items()}


def _measured(folder):
  """{measure of earlier masks: metric} of a folder of `miras eval`."""
  path = folder / "metrics.json"
  try:
    about = regular_file.read_object(path)
    if about:
      return about.get("state", {}).get("metrics", {})
    why = f"{path}: is not there"
  except UserError as error:
    why = error
  raise UserError(f"{why}; delete {folder} and run again")


def _data(setup, arm):
  """Where the true masks of predictions are that hold none."""
  place, folders = runs.scored_folders(arm.history, setup)
  return data_set.open_data(place, setup.split, **folders)


def lines(result) -> list[str]:
  """The table that is printed."""
  out = [
    result["question"],
    f"{plural(result['seeds'], 'seed')} of {result['steps']} steps,"
    f" {result['conversations']}"
    " held-out conversations; 95 % intervals over seeds and images",
  ]
  for row in result["arms"]:
    cells = [f"{name} {_cell(row['metrics'][name])}" for name in SHOWN]
    out.append(f"  {row['arm']:20}{'   '.join(cells)}")
    told = (f"{k} {number(v)}" for k, v in row.get("state", {}).items())
    out += [f"  {'':20}{line}" for line in filter(None, ["   ".join(told)])]
  base = result["arms"][0]["arm"]
  for row in result["arms"][1:]:
    found = row["difference"]["ciou"]
    out.append(
      f"  {row['arm']} - {base}: ciou {_cell(found, sign=True)},"
      f" p {number(found['p'], 4)}, Holm {number(found['p_holm'], 4)}"
    )
  for group, values in result["groups"].items():
    out.append(f"by {group}:")
    for value, row in values.items():
      found = row["giou"]
      out.append(f"  {value:20}giou {_cell(found)}  of {found['n']}")
  return out


def _cell(m, sign=False):
  ends = f"[{number(m['low'])}, {number(m['high'])}]"
  return f"{number(m['value'], sign=sign)} {ends}"
