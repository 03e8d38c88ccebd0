"""Compares runs that `miras eval` scored on the same examples.

  miras compare runs/a/report runs/b/report --out=compared
  miras compare a b c --metrics=ciou,giou --out=compared
  miras compare a b --power --half_width=0.01 --difference=0.02 --out=compared

Each RUN is a folder of `miras eval --out`, or its predictions.jsonl. Every metric that
adds up over images (not BLEU, CIDEr, dist and ece) is compared: paired bootstrap
(interval of the difference), permutation test (p), and Holm's correction over all
metrics and pairs (p Holm; * where it is at most --level). `effect` is the difference
over the standard deviation of what each image adds to it. Fewer --metrics make the
corrected tests sharper: name what you set out to show, before you look.

--power tells how many images a wanted interval or difference needs, from the spread of
these runs; one RUN is enough for an interval.

Examples that a run misses, that are of another data set and masks of another size are
named and counted, with exit status 1; --allow-missing scores them as empty masks and
empty answers. Predictions of earlier versions hold no true masks: those are read from
the data set, --data or what metrics.json names, and so are the photographs.

OUT/compare.json   every number; OUT/index.html   a page with what changed most
"""

import json
import pathlib

from miras_jax.checkpoint import lock, workdir
from miras_jax.compare import align, data_set, page, predictions, result, tables
from miras_jax.errors import UserError
from miras_jax.options import Parser, nearest

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LEAST = 1e-9  # of a chance: far below, the normal quantile is infinite
MOST_RESAMPLES = 1_000_000  # all are held
SHOWN = 20  # problems of a kind that are named; all are counted


def main(argv):
  """`miras compare ...`; see the module's head."""
  args = _parser().parse_args(argv)
  _check(args)
  out = _make(args.out)
  with lock.hold(out, "miras compare"):
    return _run(args, out)


def _run(args, out):
  runs = [predictions.read(p, LABELS[i]) for i, p in enumerate(args.runs)]
  found = align.Found()
  examples = align.align(runs, found)
  data = data_set.find(runs, args)
  if any(rle is None for example in examples for rle in example.true):
    _refuse(found, args)  # before the data set is read for nothing
    examples = data_set.with_truth(examples, data)
  scored = tables.Scored(runs, examples, found, args.metrics)
  _refuse(found, args)
  compared = result.compare(runs, examples, scored, found, args)
  lines = json.dumps(compared, indent=1, allow_nan=False)
  workdir.write_atomically(out / "compare.json", lines + "\n")
  shown = page.render(compared, runs, examples, data, args.examples)
  workdir.write_atomically(out / "index.html", shown)
  for line in [*_told(found), *result.text(compared)]:
    print(line)
  print(out / "index.html")
  return 0


def _parser():
  parser = Parser(prog="miras compare", description=__doc__)
  add = parser.add_argument
  parser.add_input(
    "runs", nargs="+", metavar="RUN", help="folder of miras eval, or its predictions"
  )
  parser.add_output(
    "--out", default="compared", help="folder for the results (compared)"
  )
  add("--metrics", default="", help="only these, e.g. ciou,giou (all)")
  add("--level", type=float, default=0.05, help="chance of a false alarm (0.05)")
  add(
    "--resamples", type=int, default=10_000, help="bootstrap and permutations (10000)"
  )
  add("--seed", type=int, default=0, help="of both (0)")
  add("--examples", type=int, default=12, help="conversations to draw (12)")
  add(
    "--allow-missing",
    action="store_true",
    help="score what is missing as empty",
  )
  parser.add_place("--data", help="the data set (what metrics.json names)")
  add("--split", help="its list (what metrics.json names, or val)")
  parser.add_place("--images-dir", help="folder of the photographs")
  parser.add_place("--masks-dir", help="folder of the labelme files")
  add("--power", action="store_true", help="how many images are needed")
  add("--half_width", type=float, default=0.02, help="wanted interval, +- (0.02)")
  add("--difference", type=float, default=0.02, help="wanted to be found (0.02)")
  add("--chance", type=float, default=0.8, help="of finding it (0.8)")
  return parser


def _check(args):
  least = 1 if args.power else 2
  if not least <= len(args.runs) <= len(LABELS):
    raise UserError(f"{len(args.runs)} runs: want {least} to {len(LABELS)}")
  for name in ("level", "chance"):
    if not LEAST <= getattr(args, name) <= 1 - LEAST:
      raise UserError(f"--{name}={getattr(args, name)}: want a number between 0 and 1")
  for name in ("half_width", "difference"):
    if not 0 < getattr(args, name) < float("inf"):
      raise UserError(f"--{name}={getattr(args, name)}: want a number above 0")
  for name, lowest in (("resamples", 1), ("seed", 0), ("examples", 0)):
    if getattr(args, name) < lowest:
      raise UserError(f"--{name}={getattr(args, name)}: want {lowest} or more")
  if args.resamples > MOST_RESAMPLES:
    raise UserError(f"--resamples={args.resamples}: want at most {MOST_RESAMPLES:,}")
  args.metrics = [name for name in args.metrics.split(",") if name]
  known = tables.metric_names()
  for name in args.metrics:
    if name not in known:
      raise UserError(f"--metrics: no metric {name!r}{nearest(name, known)}")


def _make(path):
  out = pathlib.Path(path)
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={path} cannot be made: {error.strerror}") from None
  return out


def _refuse(found, args):
  """UserError naming every kind of problem, unless they are allowed."""
  if found.total() and not args.allow_missing:
    raise UserError(
      f"the runs are not of the same examples, {found.total()} problems;"
      " --allow-missing scores them as empty",
      details="\n".join(_told(found)),
    )


def _told(found):
  """Lines: the first problems of each kind, then their counts by run."""
  out = []
  for kind, text in align.KINDS.items():
    lines = found.lines[kind]
    out += lines[:SHOWN]
    if len(lines) > SHOWN:
      out.append(f"... and {len(lines) - SHOWN:,} more of this kind")
    for label, count in found.by_run(kind).items():
      out.append(f"{label}: {count:,} {text}")
  return out
