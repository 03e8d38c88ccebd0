"""Benchmarks, each run by name.

  miras bench quickstart            # a step: examples/s, tokens/s, compile time
  miras bench packing               # one row an image against one row a conversation
  miras bench decoder               # a LoRA step of the decoder against PyTorch eager
  miras bench prist                 # the whole training step against PyTorch eager
  miras bench decode                # prefill and new tokens against PyTorch eager
  miras bench meshes                # the real model: every mesh has one losses
  miras bench faults                # kills, flipped bits, full disks: what is survived
  miras bench campaign --minutes=10 # mutated files, signals, clashes: none may fail
  miras bench saves                 # how long a save blocks, what a kill costs
  miras bench convert --scale=0.05  # converting a large checkpoint against copying it

miras bench NAME --help tells what a benchmark measures and takes.
"""

import importlib

from miras_jax.errors import UserError
from miras_jax.options import nearest

BENCHMARKS = {
  "quickstart": "miras_jax.benchmarks.quickstart",
  "packing": "miras_jax.benchmarks.packing",
  "decoder": "miras_jax.benchmarks.decoder",
  "prist": "miras_jax.benchmarks.prist",
  "decode": "miras_jax.benchmarks.decode",
  "meshes": "miras_jax.benchmarks.meshes",
  "saves": "miras_jax.benchmarks.saves",
  "faults": "miras_jax.benchmarks.faults",
  "campaign": "miras_jax.benchmarks.campaign",
  "convert": "miras_jax.benchmarks.convert",
}


def main(argv):
  """`miras bench NAME [options]`."""
  if not argv or argv[0] in ("-h", "--help"):
    print(__doc__)
    return 0
  name, *rest = argv
  if name not in BENCHMARKS:
    raise UserError(f"no benchmark {name!r}{nearest(name, BENCHMARKS)}")
  return importlib.import_module(BENCHMARKS[name]).main(rest)
