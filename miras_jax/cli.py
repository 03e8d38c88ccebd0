"""The `miras` command: finds COMMAND, imports only its module, hands over.

Every command's module has `main(argv) -> int | None` and a docstring whose examples
teach it; `python -m miras_jax.COMMAND` is the same thing.
"""

import argparse
import difflib
import importlib
import os
import sys

from miras_jax.errors import UserError

IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
# command: (module, one line of help, one example)
# fmt: off
COMMANDS = {
    "train": ("miras_jax.training.command", "train a model; resumes by itself",
              "miras train --config=configs/prist_quickstart.py --workdir=runs/first"),
    "eval": ("miras_jax.evaluation.command", "score a checkpoint, write a report",
             "miras eval --checkpoint=runs/first --data=data/synth --split=val "
             "--out=runs/first/report"),
    "chat": ("miras_jax.inference.chat", "talk about one image, get masks",
             "miras chat --checkpoint=runs/first --image=photo.jpg"),
    "data": ("miras_jax.data.command", "make, check, count and show data",
             "miras data synth --out=data/synth --conversations=2000 --seed=0"),
    "bench": ("miras_jax.benchmarks.command",
              "measure examples/s, tokens/s, compile time",
              "miras bench quickstart"),
    "convert": ("miras_jax.convert.command", "published weights in, ours out",
                "miras convert --from=miras --src=published --dst=ours"),
    "scale": ("miras_jax.scale.command", "weigh a program for TPUs that are not there",
              "miras scale --config=configs/miras_7b_stage2.py --topology=v5e:4x4 "
              "--out=scale"),
    "parity": ("miras_jax.parity", "compare with golden numbers, tensor by tensor",
               "miras parity --golden=golden --out=ours.npz"),
    "checkpoint": ("miras_jax.checkpoint.command", "list, verify and prune checkpoints",
                   "miras checkpoint list runs/first"),
}
# fmt: on


class Parser(argparse.ArgumentParser):
  """argparse whose mistakes are UserErrors that name the nearest valid option."""

  def __init__(self, *args, **kwargs):
    kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
    kwargs.setdefault("allow_abbrev", False)
    super().__init__(*args, **kwargs)

  def parse_args(self, args=None, namespace=None):
    parsed, unknown = self.parse_known_args(args, namespace)
    if unknown:
      name = unknown[0].split("=")[0]
      options = [o for a in self._actions for o in a.option_strings]
      raise UserError(f"{self.prog}: unknown option {name!r}{nearest(name, options)}")
    return parsed

  def error(self, message):
    raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


def nearest(name, choices):
  """ "; did you mean 'x'?" for the choice closest to `name`, or what there is."""
  close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
  if close:
    return f"; did you mean {close[0]!r}?"
  return f"; there are {', '.join(sorted(choices))}"


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
  return importlib.import_module(COMMANDS[name][0]).main(rest) or 0


def in_order(flags):
  """XLA_FLAGS with which simulated devices run their collectives in one order.

  By default XLA:CPU starts independent collectives in an order of each device's own;
  two devices then wait for each other, and the process is ended after 40 seconds.
  """
  simulated = "xla_force_host_platform_device_count" in flags
  return f"{flags} {IN_ORDER}" if simulated and "_scheduler" not in flags else flags


def run(command, argv=None):
  """Calls `command(argv)` and ends the process: a user's mistake is one line."""
  os.environ["XLA_FLAGS"] = in_order(os.environ.get("XLA_FLAGS", ""))
  try:
    status = command(sys.argv[1:] if argv is None else argv) or 0
    sys.stdout.flush()
  except UserError as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    status = 1
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    status = 130
  except BrokenPipeError:  # `miras ... | head` closed our output: not an error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    status = 0
  sys.exit(status)


def entry():
  """The console script."""
  run(main)


def _version():
  from importlib import metadata

  try:
    return metadata.version("miras_jax")
  except metadata.PackageNotFoundError:
    return "(not installed)"


if __name__ == "__main__":
  entry()
