"""What saving costs: how long a save blocks training, and what a killed run loses.

`miras train` on rendered conversations, saved every few steps, killed with kill -9 and
started again; all numbers are from its log and from the checkpoints' own time stamps.

  miras bench saves                              # the quickstart's model
  miras bench saves --every=20 --saves=6
  miras bench saves --config.optim.name=adamw    # any field of the config

Targets: a save blocks training for less than one step (the median save), and a run that
saves as often as the config says (`checkpoint_every`), killed at a random moment once
in every ten saves, spends 90 % of its time in steps that count. Of ten intervals such a
run loses half a one, the save under way and a restart: measured here, added up there.
Status 1 when a target is missed.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from input_pipeline.prepare import synth
from miras_jax import logs
from miras_jax.checkpoint.workdir import Workdir
from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.options import Parser

CONVERSATIONS = 300
SAVES_A_KILL = 10
GOODPUT = 0.9
SETTLED = 3  # steps after which the time of a step is steady
NEVER = 10**9


def main(argv):
  """`miras bench saves`; returns 1 when a target is missed."""
  argv, fields = config_file.split_fields(argv)
  parser = Parser(prog="miras bench saves", description=__doc__)
  parser.add_argument("--config", default="configs/prist_quickstart.py")
  parser.add_argument("--every", type=int, default=10, help="steps between saves")
  parser.add_argument("--saves", type=int, default=5, help="before the kill")
  args = parser.parse_args(argv)
  if args.every <= SETTLED or args.saves < 2:
    raise UserError(
      f"--every={args.every} --saves={args.saves}: want more than {SETTLED} steps"
      " between saves and at least 2 saves"
    )
  logs.to_stderr()
  interval = config_file.load(args.config).checkpoint_every
  with tempfile.TemporaryDirectory() as root:
    root = pathlib.Path(root)
    options = [f"--config.{name}={value}" for name, value in fields]
    found = measure(root, _command(root, args, options), args)
  found["goodput"] = goodput(found, interval)
  return report(found, interval)


def _command(root, args, options):
  """The command that trains in `root / "run"`, on data that are made here."""
  with contextlib.redirect_stdout(sys.stderr):
    synth.generate(root / "data", CONVERSATIONS, 0)
  steps = args.every * (args.saves + 3)
  return [
    sys.executable, "-m", "miras_jax.cli", "train", f"--config={args.config}",
    f"--workdir={root / 'run'}", f"--config.data.dir={root / 'data'}",
    f"--config.checkpoint_every={args.every}", f"--config.steps={steps}",
    f"--config.probe_every={NEVER}", "--config.keep=1000",
    f"--config.compile_cache={root / 'compiled'}", *options,
  ]  # fmt: skip


def measure(root, command, args):
  """{what: seconds} of a run that is killed after its saves and started again."""
  folder = Workdir(root / "run")
  with open(root / "output", "w") as output:
    life = subprocess.Popen(command, stdout=output, stderr=output)
    try:
      _until(lambda: len(folder.steps()) >= args.saves, life, root)
    finally:
      life.kill()
      life.wait()
    saved = folder.steps()[-1]
    rows = _rows(folder)
    folder.metrics.unlink()  # its rows past the checkpoint would look like new ones
    begun = time.perf_counter()
    life = subprocess.Popen(command, stdout=output, stderr=output)
    try:
      _until(lambda: _rows(folder, after=saved), life, root)
      restart = time.perf_counter() - begun
    finally:
      life.kill()
      life.wait()
  waits = [row["save_wait_s"] for row in rows if row["save_wait_s"]]
  settled = [r["step_s"] for r in rows if (r["step"] - 1) % args.every >= SETTLED]
  return {
    "step": float(np.median(settled)),
    "blocked": float(np.median(waits)),
    "blocked most": max(waits),
    "blocked by the first": waits[0],
    "durable": float(np.median([_write_seconds(folder, s) for s in folder.steps()])),
    "restart": restart,
    "saves": len(waits),
  }


def _until(condition, life, root):
  """Waits; UserError with the last line of the output when the run ends first."""
  while not condition():
    if life.poll() is not None:
      lines = (root / "output").read_text().strip().splitlines() or [""]
      raise UserError(f"training ended with status {life.returncode}: {lines[-1]}")
    time.sleep(0.005)


def _rows(folder, after=0):
  """Rows of the log past a step; of a line that is being written nothing."""
  if not folder.metrics.exists():
    return []
  rows = []
  for line in folder.metrics.read_text().splitlines():
    with contextlib.suppress(ValueError):
      rows.append(json.loads(line))
  return [row for row in rows if row["step"] > after]


def _write_seconds(folder, step):
  """From the start of a save to the moment from which it counts."""
  text = (folder.step(step) / "_CHECKPOINT_METADATA").read_text()
  stamps = json.loads(text)
  return (stamps["commit_timestamp_nsecs"] - stamps["init_timestamp_nsecs"]) / 1e9


def goodput(found, interval):
  """Share of useful time when a run is killed once in SAVES_A_KILL intervals of steps.

  What is trained between the last durable save and the kill is trained again: half an
  interval on average, and what was done while that save was being written.
  """
  useful = SAVES_A_KILL * interval * found["step"]
  lost = interval / 2 * found["step"] + found["durable"]
  blocked = SAVES_A_KILL * found["blocked"]
  return useful / (useful + blocked + lost + found["restart"])


def smallest_interval(found):
  """Steps between saves from which on goodput reaches its target."""
  fixed = found["durable"] + found["restart"] + SAVES_A_KILL * found["blocked"]
  left = SAVES_A_KILL * (1 / GOODPUT - 1) - 0.5
  return int(np.ceil(fixed / (left * found["step"])))


def report(found, interval):
  """Prints the numbers; returns the exit status."""
  fast, good = found["blocked"] < found["step"], found["goodput"] >= GOODPUT
  ratio = found["blocked"] / found["step"]
  yes = {True: "reached", False: "MISSED"}
  lines = {
    "step": f"{1e3 * found['step']:.0f} ms",
    "a save blocks": f"{1e3 * found['blocked']:.0f} ms, {ratio:.2f} steps (median of"
    f" {found['saves']}; most {1e3 * found['blocked most']:.0f} ms, first"
    f" {1e3 * found['blocked by the first']:.0f} ms)",
    "less than one step": yes[fast],
    "written after": f"{found['durable']:.2f} s",
    "restart to first step": f"{found['restart']:.1f} s",
    "goodput": f"{found['goodput']:.1%}, killed every {SAVES_A_KILL} saves,"
    f" {interval} steps apart: {yes[good]}",
    "reached from": f"{smallest_interval(found)} steps between saves on",
  }
  for name, text in lines.items():
    print(f"{name:<22} {text}")
  return int(not (fast and good))
