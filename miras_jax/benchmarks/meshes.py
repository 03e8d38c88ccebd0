"""The real model on every mesh: the losses of one device, step by step.

`miras train` on rendered conversations, float32, each mesh in processes of its own on
simulated CPU devices: one device, eight (or sixteen) cut along every axis in turn and
along all of them, and two processes that talk through gloo. Prints each mesh's largest
difference of a logged loss from that of one device, relative, and the same of the
gradient's norm.

  miras bench meshes                                  # 20 steps on all: some minutes
  miras bench meshes --only=fsdp --steps=5            # meshes whose name has "fsdp"
  miras bench meshes --config=configs/prist_quickstart.py
  miras bench meshes --config.optim.name=adamw        # any field of the config

The rows "in 2 parts" and "in 4 parts" are one device again, its batch accumulated: the
same sums in another order. What they differ by is what the config makes of rounding
alone. A ReLU whose input is a rounding away from zero has one gradient or the other, so
a model that trains everything from random weights can drift past 1e-5 on one device.

Status 1 when a loss differs by more than 1e-5, or a run fails.
"""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np
import tqdm

from input_pipeline.prepare import synth
from miras_jax import logs
from miras_jax.checkpoint.workdir import Workdir
from miras_jax.config import file as config_file
from miras_jax.errors import UserError
from miras_jax.options import Parser

TOLERANCE = 1e-5
CONVERSATIONS = 120
NEVER = 10**9
# Many devices on few busy cores meet late; XLA would end the process after 40 s.
PATIENT = "--xla_cpu_collective_call_terminate_timeout_seconds=1200"
# What every run has in common; the batch divides over eight.
COMMON = (
  "--config.mixture=none",
  "--config.allow_random=True",  # layouts are compared, nothing is learnt
  "--config.batch_size=8",
  f"--config.checkpoint_every={NEVER}",
  f"--config.probe_every={NEVER}",
)


class Layout(NamedTuple):
  """Sizes of the mesh's axes that are not 1, over how many processes it lies, and in
  how many parts the batch is accumulated."""

  sizes: dict
  processes: int = 1
  parts: int = 1

  @property
  def devices(self):
    return int(np.prod(list(self.sizes.values())))

  @property
  def name(self):
    text = " ".join(f"{axis}={size}" for axis, size in self.sizes.items())
    over = f", {self.processes} processes" if self.processes > 1 else ""
    cut = f", in {self.parts} parts" if self.parts > 1 else ""
    return text + over + cut

  @property
  def options(self):
    sizes = {"data": 1} | self.sizes
    mesh = [f"--config.mesh.{axis}={size}" for axis, size in sizes.items()]
    return [*mesh, f"--config.optim.accumulation={self.parts}"]


ONE = Layout({"data": 1})
LAYOUTS = (
  Layout({"data": 1}, parts=2),
  Layout({"data": 1}, parts=4),
  Layout({"data": 8}),
  Layout({"fsdp": 8}),
  Layout({"dcn_data": 2, "data": 4}),
  Layout({"data": 4, "tensor": 2}),
  Layout({"data": 2, "tensor": 4}),
  Layout({"data": 4, "sequence": 2}),
  Layout({"data": 2, "sequence": 4}),
  Layout({"fsdp": 2, "tensor": 2, "sequence": 2}),
  Layout({"data": 2, "fsdp": 2, "tensor": 2, "sequence": 2}),
  Layout({"data": 2, "fsdp": 4}, processes=2),
  Layout({"data": 2, "fsdp": 2, "tensor": 2}, processes=2),
)


def main(argv):
  """`miras bench meshes`; returns 1 when a loss differs by more than TOLERANCE."""
  argv, fields = config_file.split_fields(argv)
  parser = Parser(prog="miras bench meshes", description=__doc__)
  parser.add_argument("--config", default="configs/miras_7b_stage2.py:size=tiny")
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--only", default="", help="meshes whose name contains this")
  parser.add_argument("--out", help="JSON file for the numbers")
  args = parser.parse_args(argv)
  layouts = [layout for layout in LAYOUTS if args.only in layout.name]
  if not layouts:
    names = "; ".join(layout.name for layout in LAYOUTS)
    raise UserError(f"no mesh has --only={args.only!r} in its name; there are {names}")
  logs.to_stderr()
  options = [f"--config={args.config}", *COMMON, f"--config.steps={args.steps}"]
  options += [f"--config.{name}={value}" for name, value in fields]
  with tempfile.TemporaryDirectory() as root:
    results = _compare(pathlib.Path(root), layouts, options)
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(results, indent=1) + "\n")
  return int(any(result["verdict"] != "same" for result in results.values()))


def _compare(root, layouts, options):
  """{mesh: {"loss", "grad_norm", "verdict"}} against one device."""
  with contextlib.redirect_stdout(sys.stderr):
    synth.generate(root / "data", CONVERSATIONS, 0)
  options = [*options, f"--config.data.dir={root / 'data'}"]
  bar = tqdm.tqdm([ONE, *layouts], desc="train", unit="mesh")
  straight, results = None, {}
  print(line("mesh", "loss", "gradient", "verdict"))
  for number, layout in enumerate(bar):
    bar.set_postfix_str(layout.name)
    rows, problem = train(root / str(number), layout, options)
    if straight is None:
      if problem:
        raise UserError(f"training on one device failed: {problem}")
      straight = rows
    else:
      found = results[layout.name] = verdict(straight, rows, problem)
      numbers = (found["loss"], found["grad_norm"])
      texts = ("-" if x is None else f"{x:.1e}" for x in numbers)
      tqdm.tqdm.write(line(layout.name, *texts, found["verdict"]), file=sys.stdout)
  return results


def train(folder, layout, options):
  """(rows of the log, None or what went wrong) of `miras train` on a Layout."""
  command = [sys.executable, "-m", "miras_jax.cli", "train", f"--workdir={folder}"]
  processes = [
    subprocess.Popen(
      [*command, *options, *layout.options],
      env=environ,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for environ in environments(layout)
  ]
  texts = [process.communicate()[0] for process in processes]
  for process, text in zip(processes, texts, strict=True):
    if process.returncode:
      last = (text.strip().splitlines() or [""])[-1]
      return [], f"status {process.returncode}: {last[-300:]}"
  lines = Workdir(folder).metrics.read_text().splitlines()
  return [json.loads(line) for line in lines], None


def environments(layout):
  """The environment of each process of a Layout."""
  local = layout.devices // layout.processes
  flags = f"{PATIENT} --xla_force_host_platform_device_count={local}"
  shared = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
  }
  if layout.processes == 1:
    return [shared]
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  shared |= {
    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
    "JAX_NUM_PROCESSES": str(layout.processes),
  }
  return [shared | {"JAX_PROCESS_ID": str(i)} for i in range(layout.processes)]


def verdict(straight, rows, problem=None):
  """Largest relative differences of `rows` from `straight`, and what they mean."""
  if problem or len(rows) != len(straight):
    why = problem or f"{len(rows)} steps in place of {len(straight)}"
    return {"loss": None, "grad_norm": None, "verdict": why}
  found = {name: difference(straight, rows, name) for name in ("loss", "grad_norm")}
  same = found["loss"] <= TOLERANCE  # NaN is not
  return found | {"verdict": "same" if same else f"past {TOLERANCE:g}"}


def difference(straight, rows, name):
  """Largest relative difference of one number of the log."""
  a, b = (np.array([row[name] for row in side], float) for side in (straight, rows))
  return float(np.max(np.abs(b - a) / np.maximum(np.abs(a), 1e-30)))


def line(mesh, loss, gradient, verdict):
  """A row of the table that is printed."""
  width = max(len(layout.name) for layout in LAYOUTS)
  return f"{mesh:<{width}}  {loss:>8}  {gradient:>8}  {verdict}"
