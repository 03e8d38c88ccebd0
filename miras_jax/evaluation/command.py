"""Scores a checkpoint on a split and writes a report.

  miras eval --checkpoint=runs/first --data=data/synth --split=val --out=report
  miras eval --checkpoint=runs/first/checkpoints/2000 --data=data/synth \\
      --out=report_gold --history=gold --limit=100

--data, --images-dir and --masks-dir are those of the run where they are not given.

A model with a state (docs/state.md) sees its own earlier masks; --state=gold gives it
the true ones, --state=none none of them.

Free-running: the model's own answers become the history (--history=gold takes those of
the data), and a target without a [SEG] counts as an empty mask. Masks are scored at the
original size of each image. The same checkpoint is scored on six controls, in which the
mask must suffer: the conversation swapped, its last turn alone, the image swapped; in
--control_sample conversations each also an attribute that the target has not, something
that is not in the picture (read by its share of empty masks) and the earlier turns in
another order.

  miras eval --checkpoint=runs/first --suite=res --data=data --out=runs/first/res

A suite asks published benchmarks, those that `miras data build` wrote below --data,
with fixed questions, and scores each in its own convention: OUT/suite.md is the table,
OUT/suite.json its numbers. One that is not there is named, and the exit status 1.

OUT/metrics.json        every metric with its 95 % interval, controls, teacher forcing
OUT/predictions.jsonl   one conversation a line: turns, generated texts, masks, scores;
                        written as they are made, in the data's order at the end
OUT/index.html          the report; also curves.png and overlays.png

A run that was killed goes on where it was when it is started again (from OUT/.parts,
which is removed at the end). Of several processes (JAX_COORDINATOR_ADDRESS or Slurm, as
in training) each does its share on its own devices and the first adds up; --out is then
a folder that all of them see. Neither changes the result.
"""

import json
import os
import pathlib
import time

from input_pipeline.open_source import open_source, resolve
from miras_jax.checkpoint import lock, workdir
from miras_jax.config.settings import DistributedConfig
from miras_jax.errors import UserError
from miras_jax.evaluation import (
  altered,
  meteor,
  provenance,
  report,
  shares,
  state_jobs,
  suite,
)
from miras_jax.evaluation import parts as parts_lib
from miras_jax.evaluation.evaluate import Options, Work
from miras_jax.evaluation.records import read_records
from miras_jax.inference import devices
from miras_jax.inference.load import find_identity, find_step, read_config
from miras_jax.options import Parser
from miras_jax.parallel import distributed
from miras_jax.storage import reach

TOLD = (  # what the numbers depend on beside checkpoint and data, in metrics.json
  "limit",
  "history",
  "state",
  "weights",
  "batch_size",
  "max_new_tokens",
  "control_sample",
)


def main(argv):
  """`miras eval ...`; see the module's head."""
  args = _parse(argv)
  distributed.start(DistributedConfig())
  with lock.hold_together(args.out, "miras eval", lambda: _make_folder(args.out)):
    return suite.run(args, _settings) if args.suite else _run(args)


def _run(args):
  start, out = time.perf_counter(), pathlib.Path(args.out)
  source = distributed.together(_open_data, args)
  found = distributed.together(_read, args, source)
  mesh = devices.make(args.mesh)
  size = devices.fill(min(args.batch_size, len(found.records)), mesh)
  parts = distributed.together(_open_parts, args, source, size)
  loaded = distributed.together(devices.load, args)
  options = Options(
    history=args.history,
    state=args.state,
    batch_size=size,
    max_new_tokens=args.max_new_tokens,
    controls=not args.no_controls,
    control_sample=args.control_sample,
    meteor=args.meteor,
    seed=args.seed,
  )
  work = Work(loaded, found.records, options, found.image_of)
  distributed.together(shares.do_share, work, parts, out)
  distributed.barrier("eval: all parts are written")
  if evaluation := distributed.together(_conclude, args, work, parts, found, loaded):
    write(out, evaluation, args.examples, options.seed, loaded.log)
    parts.remove()
    _print_summary(evaluation.result, out, time.perf_counter() - start)
  distributed.barrier("eval: the report is written")
  return 0


def _read(args, source):
  quiet = not distributed.is_first()
  return read_records(source, args.limit, shown=args.data, quiet=quiet)


def _settings(args, split, source, batch_size):
  """What the results of a split depend on."""
  mesh = args.mesh and {k: v for k, v in args.mesh.sizes.items() if v != 1}
  scheme, place = resolve(args.data)
  return {
    "checkpoint": str(reach.full(args.checkpoint)),
    "step": find_step(args.checkpoint),
    "parameters": find_identity(args.checkpoint),
    "weights": args.weights,
    "mesh": mesh,
    "data": f"{scheme}:{os.path.abspath(place)}",
    "split": split,
    "records": source.fingerprint(),
    "files": source.files_fingerprint(),
    "limit": args.limit,
    "history": args.history,
    "batch_size": batch_size,
    "max_new_tokens": args.max_new_tokens,
    "no_controls": args.no_controls,
    "control_sample": args.control_sample,
  } | ({} if args.state == "own" else {"state": args.state})


def _open_parts(args, source, size):
  settings = _settings(args, args.split, source, size)
  return parts_lib.open_parts(args.out, settings, distributed.is_first())


def _conclude(args, work, parts, found, loaded):
  """The Evaluation of all shares, in the first process; None in others."""
  if not distributed.is_first():
    return None
  parts.find()
  evaluation = work.conclude(parts)
  about = {"dir": str(args.data), "split": args.split, "records": found.total}
  about |= evaluation.result["data"]
  evaluation.result |= {
    "config": json.loads(loaded.config.to_json()),
    "data": about | {"defective": [str(p) for p in found.problems]},
    "checkpoint": str(args.checkpoint),
    "step": loaded.step,
    "options": {name: getattr(args, name) for name in TOLD}
    | {"controls": not args.no_controls, "mesh": args.mesh and args.mesh.sizes},
  }
  return evaluation


def _parse(argv):
  parser = Parser(prog="miras eval", description=__doc__)
  add = parser.add_argument
  parser.add_place(
    "--checkpoint", required=True, help="a --workdir of `miras train`, or one step"
  )
  parser.add_place(
    "--data", help="the data set: a folder in PRIST's layout (the run's own)"
  )
  parser.add_place("--images-dir", help="folder of the photographs")
  parser.add_place("--masks-dir", help="folder of the labelme files")
  add("--split", help="a list at its root, without .json (val)")
  parser.add_output("--out", required=True, help="folder for the results")
  add("--history", choices=("model", "gold"), default="model", help="whose answers")
  add(
    "--state",
    choices=state_jobs.STATES,
    default="own",
    help="whose masks are earlier ones, with model.state: own, gold or none (own)",
  )
  add("--limit", type=int, help="take only the first N conversations")
  add("--batch_size", type=int, default=64, help="conversations at a time (64)")
  add("--max_new_tokens", type=int, default=64, help="longest answer (64)")
  add("--no_controls", action="store_true", help="leave the controls out")
  add(
    "--control_sample",
    type=int,
    default=altered.SAMPLE,
    help=f"most conversations of each changed pass, 0 for all ({altered.SAMPLE})",
  )
  add("--meteor", action="store_true", help="METEOR too: needs Java and pycocoevalcap")
  add("--examples", type=int, default=16, help="conversations to draw (16)")
  add("--seed", type=int, default=0, help="of intervals and drawn examples (0)")
  add("--suite", choices=suite.names(), help="published benchmarks, built below --data")
  parser.add_input(
    "--templates", help="JSON of the suite's questions, in place of its own"
  )
  add("--allow_missing", action="store_true", help="a suite without some is no failure")
  devices.add_options(parser)
  args = parser.parse_args(argv)
  _check(args)
  return args


def _check(args):
  """UserError for options that cannot be, alone or together."""
  for name in ("batch_size", "max_new_tokens", "limit"):
    if (value := getattr(args, name)) is not None and value < 1:
      raise UserError(f"--{name}={value} must be at least 1")
  for name in ("seed", "control_sample", "examples"):
    if (value := getattr(args, name)) < 0:
      raise UserError(f"--{name}={value} must be at least 0")
  if args.meteor and (why := meteor.missing()):
    raise UserError(f"--meteor: {why}")
  of_one = ("split", "images_dir", "masks_dir")
  of_suite = ("templates", "allow_missing")
  for name in of_one if args.suite else of_suite:
    if getattr(args, name):
      what = "is not for" if args.suite else "is for"
      raise UserError(f"--{name.replace('_dir', '-dir')} {what} --suite")
  if args.suite and not args.data:
    raise UserError("--suite needs --data=DIR, where `miras data build` wrote")
  args.split = args.split or "val"


def _open_data(args):
  """The source that the options name; what they leave open is the run's own."""
  config = read_config(args.checkpoint)
  run = config.data
  if config.mixture and not args.data:
    raise UserError(
      f"{args.checkpoint} was trained on a mixture: name one of its data sets with"
      f" --data={os.path.join(run.dir, 'NAME')}"
    )
  args.data = args.data or run.dir
  if not args.data:
    raise UserError(f"--data=DIR is missing; {args.checkpoint} does not say")
  if os.path.realpath(args.data) == os.path.realpath(run.dir or os.devnull):
    args.images_dir = args.images_dir or run.images_dir or None
    args.masks_dir = args.masks_dir or run.masks_dir or None
  folders = {"images_dir": args.images_dir, "masks_dir": args.masks_dir}
  return open_source(args.data, args.split, **folders)


def _make_folder(path):
  """The folder, made now: a run must not fail at its end."""
  try:
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    probe = pathlib.Path(path) / ".write_test"
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise UserError(f"--out={path}: cannot be written: {error.strerror}") from error
  return pathlib.Path(path)


def write(out, evaluation, num_examples, seed, log):
  """Writes every file of the report into folder `out`."""
  result = evaluation.result | {"provenance": provenance.collect(seed)}
  shares.write_lines(out / shares.PREDICTIONS, evaluation.predictions)
  text = json.dumps(result, indent=1, allow_nan=False) + "\n"
  workdir.write_atomically(out / shares.METRICS, text)
  report.write_report(
    out,
    result,
    evaluation.predictions,
    evaluation.example,
    log,
    count=num_examples,
    seed=seed,
  )


def _print_summary(result, out, seconds):
  data = result["data"]
  of = (
    f" of the {data['records']} in {data['split']}"
    if result["options"]["limit"]
    else ""
  )
  print(
    f"{data['conversations']} conversations{of}, {data['targets']} targets, "
    f"{data['images']} images in {seconds:.0f} s"
  )
  for warning in report.warnings(data):
    print(f"  {warning}")
  rows = [(name, result["metrics"][name]) for name in report.HEADLINE]
  rows += [("ciou, teacher-forced", result["teacher_forced"]["ciou"])]
  rows += [
    (f"{measure}, {name.replace('_', ' ')}", result["controls"][name][measure])
    for name, measure in result["control_measures"].items()
  ]
  if about := result.get("state"):
    told = about.get("metrics", {}).items()
    rows += [(f"earlier masks: {name}", m) for name, m in told]
    if follows := about.get("swapped_follows"):
      rows.append(("earlier masks: swap followed", follows))
  width = max(len(name) for name, _ in rows)
  for name, m in rows:
    low, high = report.number(m["low"]), report.number(m["high"])
    print(f"  {name:<{width}} {report.number(m['value'])}   [{low}, {high}]")
  print(f"report: {out / 'index.html'}")
