"""A random campaign against the readers and the commands.

  miras bench campaign --minutes=10
  miras bench campaign --minutes=1 --seed=3
  miras bench campaign --seed=3 --attempt=417     # one attempt again

Mutated photographs, labelme files, dialogues, safetensors, torch pickles, tokenizers,
configs, logs, markers and caches go through their real readers; commands are stopped by
signals at random moments, and run twice at once in one folder. An attempt must end:
read, or refused in a sentence, within 20 s and 1 GB, and nothing that was written may
be lost. Prints each failure when it is found, with the command that repeats it, and at
the end, also after Ctrl-C, a table of the attempts.

Status 1 when there was a failure. The same seed makes the same attempts in the same
order; how many fit into the time depends on the machine.
"""

import collections
import pathlib
import random
import shutil
import tempfile
import time

import tqdm

from miras_jax.benchmarks.attacks import worker
from miras_jax.errors import UserError
from miras_jax.options import Parser

FINE = ("read", "refused", "survived")
PROCESS_SHARE = 0.004  # of the attempts: each takes thousands of times as long


def main(argv):
  """`miras bench campaign`; returns 1 when an attempt failed."""
  parser = Parser(prog="miras bench campaign", description=__doc__)
  parser.add_argument("--minutes", type=float, default=10, help="how long (10)")
  parser.add_argument("--seed", type=int, default=0, help="of all attempts (0)")
  parser.add_argument("--attempt", type=int, help="only the one of this number")
  parser.add_argument("--only", choices=tuple(KINDS), help="one kind of attempt")
  args = parser.parse_args(argv)
  if not 0 < args.minutes < float("inf"):
    raise UserError(f"--minutes={args.minutes} must be more than 0")
  counts = collections.defaultdict(collections.Counter)
  try:
    with tempfile.TemporaryDirectory() as root:
      run(args, pathlib.Path(root), counts)
  finally:
    print(table(counts))
  return int(any(outcome not in FINE for kind in counts.values() for outcome in kind))


def run(args, root, counts):
  """Fills {kind: Counter of outcomes}; prints each failure."""
  deadline = time.monotonic() + 60 * args.minutes
  readers = worker.Worker(root)
  one = args.attempt is not None
  try:
    with tqdm.tqdm(desc="attempts", unit="", disable=None) as bar:
      number = args.attempt if one else 0
      while one or time.monotonic() < deadline:
        kind, outcome, text = attempt(args.seed, number, args.only, readers, root)
        counts[kind][outcome] += 1
        if outcome not in FINE:
          bar.write(failure(args, number, f"{kind}: {outcome}: {text}"))
        bar.update()
        number += 1
        if one:
          break
  finally:
    readers.close()


def failure(args, number, text):
  """What went wrong, in a line, and the command that repeats it."""
  only = f" --only='{args.only}'" if args.only else ""
  again = f"miras bench campaign --seed={args.seed}{only} --attempt={number}"
  return f"{' '.join(text.split())}\n  {again}"


def attempt(seed, number, only, readers, root):
  """(kind, outcome, text) of attempt `number` of a campaign."""
  rng = random.Random(f"{seed}:{number}")
  kind = only or choose(rng)
  own_seed = f"{seed}:{number}:{kind}"
  if kind not in PROCESSES:
    return kind, *readers.attempt(kind, own_seed)
  from miras_jax.benchmarks.attacks import processes

  folder = root / f"process_{number}"
  outcome = processes.attempt(kind, folder, random.Random(own_seed))
  shutil.rmtree(folder, ignore_errors=True)
  return kind, *outcome


def choose(rng):
  """A kind of attempt."""
  return rng.choice(PROCESSES if rng.random() < PROCESS_SHARE else READERS)


READERS = (
  "image", "photo", "labelme", "polygon", "dialogue", "safetensors", "torch",
  "tokenizer", "config_json", "config_option", "metrics", "synth", "cache",
)  # fmt: skip
PROCESSES = (
  "two synth", "two train", "two convert", "two cache", "signal synth", "signal train",
)  # fmt: skip
KINDS = (*READERS, *PROCESSES)


def table(counts):
  """Rows are kinds, columns outcomes."""
  failed = sorted({o for c in counts.values() for o in c} - set(FINE))
  columns = [*FINE, *failed]
  lines = ["".join(f"{name:>14}" for name in ("", "attempts", *columns))]
  for kind in (k for k in KINDS if k in counts):
    cells = [counts[kind].total(), *(counts[kind][c] for c in columns)]
    lines.append(f"{kind:>14}" + "".join(f"{n:>14,}" for n in cells))
  return "\n".join(lines)
