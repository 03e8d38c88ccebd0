"""Scores a checkpoint on a split and writes a report.

  miras eval --checkpoint=runs/first --data=data/synth --split=val --out=report
  miras eval --checkpoint=runs/first/checkpoints/2000 --data=data/synth \\
      --out=report_gold --history=gold --limit=100

Free-running: the model's own answers become the history (--history=gold takes those of
the data), and a target without a [SEG] counts as an empty mask. Masks are scored at the
original size of each image. The same checkpoint is scored on three controls, in which
the mask must suffer: the conversation swapped, its last turn alone, the image swapped.

OUT/metrics.json        every metric with its 95 % interval, controls, teacher forcing
OUT/predictions.jsonl   one conversation a line: turns, generated texts, masks, IoU
OUT/index.html          the report; also curves.png and overlays.png
"""

import json
import pathlib
import time

import numpy as np

from input_pipeline.open_source import open_source
from miras_jax.errors import UserError
from miras_jax.evaluation import report
from miras_jax.evaluation.evaluate import Options, evaluate, read_records
from miras_jax.inference.load import open_checkpoint
from miras_jax.options import Parser

HEADLINE = ("ciou", "giou", "precision_micro", "recall_micro", "f1_micro", "seg_rate")


def main(argv):
  """`miras eval ...`; see the module's head."""
  args = _parser().parse_args(argv)
  for name in ("batch_size", "max_new_tokens", "limit"):
    if (value := getattr(args, name)) is not None and value < 1:
      raise UserError(f"--{name}={value} must be at least 1")
  out = _make_folder(args.out)
  source = open_source(args.data, args.split)
  records, defects = read_records(source, args.limit, shown=args.data)
  loaded = open_checkpoint(args.checkpoint)
  options = Options(
    history=args.history,
    batch_size=min(args.batch_size, len(records)),
    max_new_tokens=args.max_new_tokens,
    controls=not args.no_controls,
    seed=args.seed,
  )
  start = time.perf_counter()
  evaluation = evaluate(loaded, records, options)
  result = evaluation.result | {
    "config": json.loads(loaded.config.to_json()),
    "data": {"dir": str(args.data), "split": args.split} | evaluation.result["data"],
    "checkpoint": str(args.checkpoint),
    "step": loaded.step,
  }
  result["data"] |= {"defective": [str(p) for p in defects]}
  write(out, result, evaluation, args.examples, options.seed, loaded.log)
  _print_summary(result, out, time.perf_counter() - start)
  return 0


def _parser():
  parser = Parser(prog="miras eval", description=__doc__)
  add, path = parser.add_argument, parser.add_path
  path("--checkpoint", required=True, help="a --workdir of `miras train`, or one step")
  path("--data", required=True, help="the data set: a folder in PRIST's layout")
  add("--split", default="val", help="a list at its root, without .json (val)")
  path("--out", required=True, help="folder for the results")
  add("--history", choices=("model", "gold"), default="model", help="whose answers")
  add("--limit", type=int, help="take only the first N conversations")
  add("--batch_size", type=int, default=64, help="conversations at a time (64)")
  add("--max_new_tokens", type=int, default=64, help="longest answer (64)")
  add("--no_controls", action="store_true", help="leave the controls out")
  add("--examples", type=int, default=16, help="conversations to draw (16)")
  add("--seed", type=int, default=0, help="of intervals and drawn examples (0)")
  return parser


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
  rng = np.random.default_rng(seed)
  count = min(num_examples, len(evaluation.predictions))
  drawn = sorted(rng.choice(len(evaluation.predictions), count, replace=False).tolist())
  text = json.dumps(result, indent=1, allow_nan=False) + "\n"
  (out / "metrics.json").write_text(text, encoding="utf-8")
  with open(out / "predictions.jsonl", "w", encoding="utf-8") as f:
    f.writelines(json.dumps(line) + "\n" for line in evaluation.predictions)
  report.write_report(out, result, [evaluation.example(i) for i in drawn], log)


def _print_summary(result, out, seconds):
  data = result["data"]
  print(
    f"{data['conversations']} conversations, {data['targets']} targets, "
    f"{data['images']} images in {seconds:.0f} s"
  )
  rows = [(name, result["metrics"][name]) for name in HEADLINE]
  rows += [("ciou, teacher-forced", result["teacher_forced"]["ciou"])]
  rows += [
    (f"ciou, {name.replace('_', ' ')}", table["ciou"])
    for name, table in result["controls"].items()
  ]
  for name, m in rows:
    low, high = report.number(m["low"]), report.number(m["high"])
    print(f"  {name:<28} {report.number(m['value'])}   [{low}, {high}]")
  print(f"report: {out / 'index.html'}")
