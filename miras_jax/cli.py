"""The `miras` command: finds COMMAND, imports only its folder, hands over.

A command is `main(argv) -> int | None` in a folder's command.py, whose docstring
teaches it by example; `python -m miras_jax.FOLDER` is the same thing.
"""

import importlib

from miras_jax import options
from miras_jax.errors import UserError
from miras_jax.options import nearest

# command: (folder of miras_jax whose command.py it is, one line of help, one example)
COMMANDS = {
  "train": (
    "training",
    "train a model; resumes by itself",
    "miras train --config=configs/prist_quickstart.py --workdir=runs/first",
  ),
  "eval": (
    "evaluation",
    "score a checkpoint, write a report",
    "miras eval --checkpoint=runs/first --data=data/synth --split=val"
    " --out=runs/first/report",
  ),
  "compare": (
    "compare",
    "tell whether runs differ, and where",
    "miras compare runs/first/report runs/second/report --out=compared",
  ),
  "judge": (
    "judge",
    "rate answers by language models and people",
    "miras judge --predictions=runs/first/report/predictions.jsonl --model=gpt-4o"
    " --endpoint=https://api.openai.com/v1 --out=judged",
  ),
  "chat": (
    "inference",
    "talk about one image, get masks",
    "miras chat --checkpoint=runs/first --image=photo.jpg",
  ),
  "segment": (
    "segment",
    "answer a file of conversations, write masks",
    "miras segment --checkpoint=runs/first --input=asked.jsonl --out=answers",
  ),
  "serve": (
    "serving",
    "a web page, JSON and annotation tools",
    "miras serve --checkpoint=runs/first --port=8000",
  ),
  "data": (
    "data",
    "make, check, count and show data",
    "miras data synth --out=data/synth --conversations=2000 --seed=0",
  ),
  "bench": (
    "benchmarks",
    "measure examples/s, tokens/s, compile time",
    "miras bench quickstart",
  ),
  "experiment": (
    "experiment",
    "an ablation of the paper at quickstart size",
    "miras experiment encoders --out=experiments",
  ),
  "convert": (
    "convert",
    "published weights in, ours out",
    "miras convert --from=miras --src=published --dst=ours",
  ),
  "scale": (
    "scale",
    "weigh a program for TPUs that are not there",
    "miras scale --config=configs/miras_7b_stage2.py --topology=v5e:4x4 --out=scale",
  ),
  "launch": (
    "launch",
    "write what starts a run on a cluster",
    "miras launch gke --print --topology=v5e:4x4 --config=configs/miras_7b_stage2.py"
    " --workdir=gs://BUCKET/run --image=IMAGE",
  ),
  "parity": (
    "parity",
    "compare with golden numbers, tensor by tensor",
    "miras parity --golden=golden --out=ours.npz",
  ),
  "checkpoint": (
    "checkpoint",
    "list, verify and prune checkpoints",
    "miras checkpoint list runs/first",
  ),
}


def usage():
  width = max(map(len, COMMANDS))
  lines = ["usage: miras COMMAND [options]      (miras COMMAND --help tells more)", ""]
  lines += [f"  {name:<{width}}  {line}" for name, (_, line, _) in COMMANDS.items()]
  lines += ["", "examples:"]
  lines += [f"  {example}" for _, _, example in COMMANDS.values()]
  return "\n".join(lines)


def main(argv):
  """Runs `miras argv...`; returns the exit status."""
  if not argv or argv[0] in ("-h", "--help", "help"):
    print(usage())
    return 0
  name, *rest = argv
  if name in ("-V", "--version"):
    print(f"miras_jax {_version()}")
    return 0
  if name not in COMMANDS:
    raise UserError(f"no command {name!r}{nearest(name, COMMANDS)}")
  return _command(COMMANDS[name][0])(rest) or 0


def _command(folder):
  """`main` of a folder's command.py."""
  return importlib.import_module(f"miras_jax.{folder}.command").main


def entry():
  """The console script."""
  options.run(main)


def _version():
  from importlib import metadata

  try:
    return metadata.version("miras_jax")
  except metadata.PackageNotFoundError:
    return "(not installed)"


if __name__ == "__main__":
  entry()
