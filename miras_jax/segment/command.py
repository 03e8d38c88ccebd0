"""Answers a file of conversations: texts and masks, for any number of images.

  miras segment --checkpoint=runs/first --input=asked.jsonl --out=answers
  miras segment --checkpoint=runs/first --input=asked.jsonl --out=answers \\
      --to=coco,labelme,png --batch_size=32

A line of --input is {"id": "a", "image": "a.jpg", "turns": ["Where is it?", ...]}, what
the user says turn by turn, or a whole dialogue ("dialogue": [{"from": "user", "value":
...}, {"from": "assistant", ...}, ...]), whose questions are asked; with --history=gold
its answers are what later questions follow, else the model's own.

OUT/predictions.jsonl   a conversation a line: for each turn `user`, `answer`, `masks`
                        (COCO RLE, score, span of its words in the answer) and how many
                        of the oldest rounds no longer fitted
OUT/coco_instances.json, OUT/coco_results.json, OUT/labelme/, OUT/png/   with --to

A killed run goes on where it was when it is started again. A record that cannot be
answered is named (FILE:LINE: reason) and passed over; the exit status is then 1. Of
several processes (JAX_COORDINATOR_ADDRESS or Slurm, as in training) each answers its
share on its own devices; --out is a folder that all of them see.
"""

import pathlib
import sys
import time

import jax
import tqdm

from input_pipeline.records import RecordError
from miras_jax.config.settings import DistributedConfig
from miras_jax.errors import UserError
from miras_jax.inference import devices, json_lines
from miras_jax.inference.load import find_step
from miras_jax.options import Parser, nearest
from miras_jax.parallel import distributed
from miras_jax.segment import forms, records, results
from miras_jax.segment.answering import Answering
from miras_jax.storage import reach


def main(argv):
  """`miras segment ...`; see the module's head."""
  args = _parse(argv)
  distributed.start(DistributedConfig())
  problems = _Problems()
  report = problems.take if distributed.is_first() else problems.note
  listed = records.index(args.input, report)
  found = distributed.together(_open_results, args)
  share = listed[jax.process_index() :: jax.process_count()]
  todo = [place for place in share if place.id not in found.done]
  start = time.perf_counter()
  answered = distributed.together(_answer, args, todo, found, problems)
  distributed.barrier("segment: all parts are written")
  if distributed.is_first():
    found.join_parts()
    forms.write(args.to, found.path, args.out, args.images_dir)
    seconds = time.perf_counter() - start
    print(f"{answered} conversations answered in {seconds:.0f} s: {found.path}")
  distributed.barrier("segment: all forms are written")
  return int(distributed.any_of(problems.count))


def _parse(argv):
  parser = Parser(prog="miras segment", description=__doc__)
  add = parser.add_argument
  parser.add_place(
    "--checkpoint", required=True, help="a --workdir of `miras train`, or one step"
  )
  parser.add_input("--input", required=True, help="JSONL of conversations")
  parser.add_output("--out", required=True, help="folder for the results")
  parser.add_input(
    "--images_dir", help="folder that image names are relative to (--input's own)"
  )
  add("--to", default="jsonl", help="jsonl, coco, labelme, png; several with commas")
  add("--batch_size", type=int, default=8, help="conversations at a time (8)")
  add("--max_new_tokens", type=int, default=128, help="longest answer (128)")
  add("--history", choices=("model", "gold"), default="model", help="whose answers")
  devices.add_options(parser)
  args = parser.parse_args(argv)
  for name in ("batch_size", "max_new_tokens"):
    if getattr(args, name) < 1:
      raise UserError(f"--{name}={getattr(args, name)} must be at least 1")
  args.images_dir = args.images_dir or str(pathlib.Path(args.input).parent)
  known = ("jsonl", *forms.WRITERS)
  args.to = args.to.split(",")
  for name in args.to:
    if name not in known:
      raise UserError(f"--to: no form {name!r}{nearest(name, known)}")
  args.to = [name for name in args.to if name in forms.WRITERS]
  return args


class _Problems:
  """Names each problem above the bar, and counts them."""

  def __init__(self):
    self.count = 0

  def note(self, problem):
    self.count += 1

  def take(self, problem):
    self.note(problem)
    tqdm.tqdm.write(str(problem), file=sys.stderr)


def _open_results(args):
  out = pathlib.Path(args.out)
  settings = {
    "checkpoint": str(reach.full(args.checkpoint)),
    "step": find_step(args.checkpoint),
    "max_new_tokens": args.max_new_tokens,
    "history": args.history,
    "weights": args.weights,
  }
  try:
    out.mkdir(parents=True, exist_ok=True)
    if distributed.is_first():
      results.check_settings(out, settings)
    return results.Results(out)
  except OSError as error:
    raise UserError(f"--out={out}: cannot be written: {error.strerror}") from error


def _answer(args, todo, found, problems):
  """Answers what is to be done; returns how many conversations that were."""
  if not distributed.any_of(bool(todo)):
    return 0
  loaded = devices.load(args)
  answering = Answering(
    loaded,
    args.input,
    args.images_dir,
    batch_size=devices.fill(max(1, min(args.batch_size, len(todo))), loaded.mesh),
    max_new_tokens=args.max_new_tokens,
    gold=args.history == "gold",
  )
  count = 0
  path = found.part(jax.process_index(), jax.process_count())
  bar = tqdm.tqdm(total=len(todo), desc="segment", unit="conversation", disable=None)
  with json_lines.Appender(path) as file, bar:
    for line in answering.of(todo):
      if isinstance(line, RecordError):
        problems.take(line)
        continue
      file.write(line)
      count += 1
      bar.update()
  return count
