"""Benchmarks, each run by name: `miras bench NAME --help` tells what one measures."""

import importlib

from miras_jax.errors import UserError
from miras_jax.options import nearest

# file of this folder: what it measures, as `miras bench --help` lists it
BENCHMARKS = {
  "quickstart": "a step: examples/s, tokens/s, compile time",
  "packing": "one row an image against one row a conversation",
  "decoder": "a LoRA step of the decoder against PyTorch eager",
  "prist": "the whole training step against PyTorch eager",
  "decode": "prefill and new tokens against PyTorch eager",
  "chat": "turns of a conversation against reading everything again",
  "meshes": "the real model: every mesh has the same losses",
  "faults": "kills, flipped bits, full disks: what is survived",
  "campaign": "mutated files, signals, clashes: none may fail",
  "input": "images from files to batches against a torch DataLoader",
  "metrics": "masks scored in every convention against a plain loop",
  "serve": "a server under load: equal answers, flat memory",
  "saves": "how long a save blocks, what a kill costs",
  "convert": "converting a large checkpoint against copying it",
}


def main(argv):
  """`miras bench NAME [options]`."""
  if not argv or argv[0] in ("-h", "--help"):
    print(usage())
    return 0
  name, *rest = argv
  if name not in BENCHMARKS:
    raise UserError(f"no benchmark {name!r}{nearest(name, BENCHMARKS)}")
  return importlib.import_module(f"miras_jax.benchmarks.{name}").main(rest)


def usage() -> str:
  lines = [f"  miras bench {name:<12} {text}" for name, text in BENCHMARKS.items()]
  return "\n".join([__doc__, "", *lines])
