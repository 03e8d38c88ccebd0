"""What is in the checkpoints of a training folder, is it whole, and away with the rest.

  miras checkpoint list runs/first              # steps, sizes, losses
  miras checkpoint verify runs/first            # reads all, compares every fingerprint
  miras checkpoint verify runs/first --step=500
  miras checkpoint prune runs/first --keep=2    # deletes all but the newest whole steps
  miras checkpoint export runs/first --out=first --small    # a folder to give away

`verify` names each damaged step, and what all steps need: config.json, tokenizer,
frozen/; it then ends with status 1; `prune` reads the newest
steps until it has found so many whole ones, and deletes the others, damaged ones and
what killed saves left. Without a whole step it deletes nothing. `export` writes one
folder with all that `chat`, `eval` and `serve` need: safetensors, config, tokenizer,
and card.md, a model card to complete; `--small` rounds the numbers to bfloat16. It is
`miras convert --src=DIR --dst=OUT`, which has more options.
"""

import contextlib
import functools
import pathlib
import shutil

from input_pipeline.tokenizer import load_tokenizer
from miras_jax.checkpoint import lock, reading, workdir
from miras_jax.errors import UserError
from miras_jax.options import Parser


def main(argv):
  """`miras checkpoint ACTION DIR`; returns the exit status."""
  parser = Parser(prog="miras checkpoint", description=__doc__)
  parser.add_argument("action", choices=tuple(ACTIONS))
  parser.add_path("dir", help="a --workdir of `miras train`")
  parser.add_argument("--step", type=int, help="only this one, of verify")
  parser.add_argument("--keep", type=int, default=1, help="steps that prune leaves")
  parser.add_path("--out", help="new folder for export")
  parser.add_argument("--small", action="store_true", help="export as bfloat16")
  args = parser.parse_args(argv)
  if not pathlib.Path(args.dir).is_dir():
    raise UserError(f"{args.dir}: no such checkpoint folder")
  folder, step = workdir.of(args.dir)
  if step is not None and args.action not in ("verify", "export"):
    raise UserError(f"{args.dir} is one step; {args.action} takes {folder.path}")
  args.step = step if args.step is None else args.step
  if not folder.steps() and not leftovers(folder):
    workdir.locate(args.dir)  # one line on what is missing
  return ACTIONS[args.action](folder, args)


def show(folder, _args):
  """One line a step, then what is of no use."""
  for step in folder.steps():
    path = folder.step(step)
    try:
      loss = f"loss {reading.read_metrics(path).get('loss', float('nan')):.4f}"
    except reading.Damaged as damage:
      loss = f"DAMAGED: {damage}"
    print(f"{step:>8}  {num_bytes(path) / 1e6:>10,.1f} MB  {loss}  {path}")
  if folder.frozen.is_dir():
    size = num_bytes(folder.frozen) / 1e6
    print(f"{'frozen':>8}  {size:>10,.1f} MB  {folder.frozen}")
  for path in leftovers(folder):
    print(f"{'unused':>8}  {num_bytes(path) / 1e6:>10,.1f} MB  {path}")


def verify(folder, args):
  """Status 1 when any step is damaged; each one is named."""
  steps = folder.steps() if args.step is None else [args.step]
  if missing := [s for s in steps if s not in folder.steps()]:
    raise UserError(f"no complete step {missing[0]} in {folder.checkpoints}")
  checks = {str(s): functools.partial(reading.verify, folder.step(s)) for s in steps}
  if args.step is None:
    checks = {
      "config": functools.partial(reading.read_config, folder),
      **checks,
      "frozen": functools.partial(reading.verify, folder.frozen),
    }
    if metas := list(_with_tokenizer(folder, steps)):
      checks["tokenizer"] = functools.partial(_verify_tokenizer, folder, metas)
  damaged = 0
  for name, check in checks.items():
    try:
      check()
      print(f"{name:>9}  whole")
    except (reading.Damaged, UserError) as damage:
      damaged += 1
      remedy = ", or take another step" if name.isdigit() else ""
      print(f"{name:>9}  DAMAGED: {damage}; put a copy back{remedy}")
  if args.step is None:
    for step in folder.incomplete_steps():
      damaged += 1
      print(f"{step:>9}  DAMAGED: {folder.step(step)} is incomplete")
  return int(damaged > 0)


def _with_tokenizer(folder, steps):
  """The meta of each readable step that says which tokenizer it was trained with."""
  for step in steps:
    with contextlib.suppress(reading.Damaged):
      if (meta := reading.read_meta(folder.step(step))).get("tokenizer"):
        yield meta


def _verify_tokenizer(folder, metas):
  found = load_tokenizer(folder.tokenizer).fingerprint()
  for meta in metas:
    reading.check_tokenizer(folder, meta, found)


def prune(folder, args):
  """Deletes all but the newest `--keep` whole steps, and leftovers."""
  if args.keep < 1:
    raise UserError(f"--keep={args.keep}: keep at least one step")
  if who := lock.holder(folder.path):
    raise UserError(
      f"{folder.path} is being written by {who}, which keeps the newest steps that its"
      " --config.keep says; prune it when that has ended"
    )
  kept = newest_whole(folder, args.keep)
  if folder.steps() and not kept:
    raise UserError(f"{folder.checkpoints}: no step is whole; nothing was deleted")
  doomed = [folder.step(step) for step in folder.steps() if step not in kept]
  freed = 0
  for path in doomed + leftovers(folder):
    freed += num_bytes(path)
    shutil.rmtree(path)
    print(f"deleted {path}")
  left = folder.steps()
  print(f"{freed / 1e6:,.1f} MB freed; steps left: {', '.join(map(str, left))}")


def export(_folder, args):
  """Writes the newest step, or the one that was named, without its optimizer."""
  from miras_jax.convert import command as convert

  if not args.out:
    raise UserError("export: name a new folder with --out")
  dtype = "bfloat16" if args.small else "keep"
  return convert.main([f"--src={args.dir}", f"--dst={args.out}", f"--dtype={dtype}"])


def newest_whole(folder, count):
  """The newest `count` steps whose every value is what was saved; names the others."""
  kept = []
  for step in reversed(folder.steps()):
    if len(kept) == count:
      break
    try:
      reading.verify(folder.step(step))
      kept.append(step)
    except reading.Damaged as damage:
      print(f"{step:>8}  DAMAGED: {damage}")
  return kept


def leftovers(folder):
  """Folders of damaged or incomplete steps and of saves that were killed."""
  if not folder.checkpoints.is_dir():
    return []
  marks = (workdir.TEMPORARY, workdir.DAMAGED)
  found = [
    p for p in folder.checkpoints.iterdir() if any(mark in p.name for mark in marks)
  ]
  return sorted(found + [folder.step(step) for step in folder.incomplete_steps()])


def num_bytes(folder):
  return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


ACTIONS = {"list": show, "verify": verify, "prune": prune, "export": export}
