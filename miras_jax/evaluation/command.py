"""Scores a checkpoint on a split and writes a report.

  miras eval --checkpoint=runs/first --data=data/synth --split=val --out=report
  miras eval --checkpoint=runs/first/checkpoints/2000 --data=data/synth \\
      --out=report_gold --history=gold --limit=100

--data, --images-dir and --masks-dir are those of the run where they are not given.

Free-running: the model's own answers become the history (--history=gold takes those of
the data), and a target without a [SEG] counts as an empty mask. Masks are scored at the
original size of each image. The same checkpoint is scored on three controls, in which
the mask must suffer: the conversation swapped, its last turn alone, the image swapped.

OUT/metrics.json        every metric with its 95 % interval, controls, teacher forcing
OUT/predictions.jsonl   one conversation a line: turns, generated texts, masks, IoU;
                        written as they are made, in the data's order at the end
OUT/index.html          the report; also curves.png and overlays.png
"""

import functools
import json
import os
import pathlib
import time

from input_pipeline.open_source import open_source
from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.evaluation import provenance, report
from miras_jax.evaluation.evaluate import MOST_MASKS, Options, evaluate
from miras_jax.evaluation.records import read_records
from miras_jax.inference import devices
from miras_jax.inference.load import read_config
from miras_jax.options import Parser

PREDICTIONS = "predictions.jsonl"


def main(argv):
  """`miras eval ...`; see the module's head."""
  args = _parser().parse_args(argv)
  for name in ("batch_size", "max_new_tokens", "limit"):
    if (value := getattr(args, name)) is not None and value < 1:
      raise UserError(f"--{name}={value} must be at least 1")
  if args.seed < 0:
    raise UserError(f"--seed={args.seed} must be at least 0")
  out = _make_folder(args.out)
  source = _open_data(args)
  found = read_records(source, args.limit, shown=args.data)
  loaded = devices.load(args)
  options = Options(
    history=args.history,
    batch_size=devices.fill(min(args.batch_size, len(found.records)), loaded.mesh),
    max_new_tokens=args.max_new_tokens,
    controls=not args.no_controls,
    seed=args.seed,
  )
  start = time.perf_counter()
  with open(out / PREDICTIONS, "w", encoding="utf-8") as lines:
    write_line = functools.partial(_append, lines)
    evaluation = evaluate(loaded, found.records, options, write_line, found.image_of)
  result = evaluation.result | {
    "config": json.loads(loaded.config.to_json()),
    "data": {"dir": str(args.data), "split": args.split} | evaluation.result["data"],
    "checkpoint": str(args.checkpoint),
    "step": loaded.step,
  }
  result["data"] |= {"defective": [str(p) for p in found.problems]}
  write(out, result, evaluation, args.examples, options.seed, loaded.log)
  _print_summary(result, out, time.perf_counter() - start)
  return 0


def _parser():
  parser = Parser(prog="miras eval", description=__doc__)
  add, path = parser.add_argument, parser.add_path
  path("--checkpoint", required=True, help="a --workdir of `miras train`, or one step")
  path("--data", help="the data set: a folder in PRIST's layout (the run's own)")
  path("--images-dir", help="folder of the photographs")
  path("--masks-dir", help="folder of the labelme files")
  add("--split", default="val", help="a list at its root, without .json (val)")
  path("--out", required=True, help="folder for the results")
  add("--history", choices=("model", "gold"), default="model", help="whose answers")
  add("--limit", type=int, help="take only the first N conversations")
  add("--batch_size", type=int, default=64, help="conversations at a time (64)")
  add("--max_new_tokens", type=int, default=64, help="longest answer (64)")
  add("--no_controls", action="store_true", help="leave the controls out")
  add("--examples", type=int, default=16, help="conversations to draw (16)")
  add("--seed", type=int, default=0, help="of intervals and drawn examples (0)")
  devices.add_options(parser)
  return parser


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


def _append(file, line):
  file.write(json.dumps(line) + "\n")
  file.flush()


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


def write(out, result, evaluation, num_examples, seed, log):
  """Writes every file of the report into folder `out`."""
  result = result | {"provenance": provenance.collect(seed)}
  text = json.dumps(result, indent=1, allow_nan=False) + "\n"
  workdir.write_atomically(out / "metrics.json", text)
  lines = "".join(json.dumps(line) + "\n" for line in evaluation.predictions)
  workdir.write_atomically(out / PREDICTIONS, lines)
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
  print(
    f"{data['conversations']} conversations, {data['targets']} targets, "
    f"{data['images']} images in {seconds:.0f} s"
  )
  if failed := data["failed"]:
    print(f"left out, since they could not be scored: {len(failed)}")
  if count := data["more_masks_than_room"]:
    print(f"{count} conversations with more than {MOST_MASKS} [SEG]: scored as empty")
  rows = [(name, result["metrics"][name]) for name in report.HEADLINE]
  rows += [("ciou, teacher-forced", result["teacher_forced"]["ciou"])]
  rows += [
    (f"ciou, {name.replace('_', ' ')}", table["ciou"])
    for name, table in result["controls"].items()
  ]
  for name, m in rows:
    low, high = report.number(m["low"]), report.number(m["high"])
    print(f"  {name:<28} {report.number(m['value'])}   [{low}, {high}]")
  print(f"report: {out / 'index.html'}")
