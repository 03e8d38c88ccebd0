"""What every command shares: its option parser, and one line for a user's mistake."""

import argparse
import difflib
import errno
import os
import re
import sys

from miras_jax import streams
from miras_jax.errors import UserError

IN_ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
# Modules that only some commands need -> the extra of setup.py that brings them.
EXTRAS = {"sacrebleu": "eval", "rouge_score": "eval", "matplotlib": "eval"}
EXTRAS["scipy"] = "scale"
EXTRAS |= dict.fromkeys(("fastapi", "uvicorn", "python_multipart"), "serve")
EXTRAS["prometheus_client"] = "serve"
EXTRAS |= dict.fromkeys(("openai", "tenacity", "pydantic"), "llm")
# What the machine refuses: nothing that a traceback would help to mend.
NOT_OURS = (
  errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE,
  errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE,
)  # fmt: skip


class Parser(argparse.ArgumentParser):
  """argparse whose mistakes are UserErrors that name the nearest valid option."""

  def __init__(self, *args, **kwargs):
    kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
    kwargs.setdefault("allow_abbrev", False)
    super().__init__(*args, **kwargs)

  def add_path(self, *names, **options):
    """`add_argument` of a local file or folder; see `local_path`."""
    return self.add_argument(*names, type=local_path, **options)

  def parse_args(self, args=None, namespace=None):
    parsed, unknown = self.parse_known_args(args, namespace)
    if unknown:
      name = unknown[0].split("=")[0]
      options = [o for a in self._actions for o in a.option_strings]
      raise UserError(f"{self.prog}: unknown option {name!r}{nearest(name, options)}")
    return parsed

  def error(self, message):
    raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


def local_path(text: str) -> str:
  """A path of the command line with `~` expanded.

  Raises UserError for a bucket: it would become a local folder of that name.
  """
  if scheme := re.match(r"(\w+)://", text):
    raise UserError(
      f"{text}: {scheme[1]}:// is not supported; copy it from or to a local folder"
    )
  return os.path.expanduser(text)


def local_paths(text: str) -> str:
  """`local_path` of each part of a list with commas."""
  return ",".join(map(local_path, text.split(",")))


def nearest(name, choices) -> str:
  """ "; did you mean 'x'?" for the choice closest to `name`, or what there is."""
  close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
  if close:
    return f"; did you mean {close[0]!r}?"
  return f"; there are {', '.join(sorted(choices))}"


def missing(module) -> str:
  """What to install when a module of an extra is not there."""
  return f"{module} is missing: pip install 'miras_jax[{EXTRAS[module]}]'"


def in_order(flags) -> str:
  """XLA_FLAGS with which simulated devices run their collectives in one order.

  By default XLA:CPU starts independent collectives in an order of each device's own;
  two devices then wait for each other, and the process is ended after 40 seconds.
  """
  simulated = "xla_force_host_platform_device_count" in flags
  return f"{flags} {IN_ORDER}" if simulated and "_scheduler" not in flags else flags


def run(command, argv=None) -> None:
  """Calls `command(argv)` and ends the process: a user's mistake is one line."""
  os.environ["XLA_FLAGS"] = in_order(os.environ.get("XLA_FLAGS", ""))
  streams.prepare()
  try:
    status = command(sys.argv[1:] if argv is None else argv) or 0
    sys.stdout.flush()
  except UserError as error:
    status = _fail(str(error).removesuffix(error.details), error.details)
  except ModuleNotFoundError as error:
    if error.name not in EXTRAS:
      raise
    status = _fail(missing(error.name))
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    status = 130
  except BrokenPipeError:  # `miras ... | head` closed our output: not an error
    status = 0
  except OSError as error:
    if error.errno not in NOT_OURS:
      raise
    status = _fail(f"{error.filename or 'output'}: {error.strerror}")
  sys.exit(streams.finish(status))


def _fail(message, details="") -> int:
  """Says `message` in one line, details below it; returns the exit status."""
  print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
  if details:
    print(details, file=sys.stderr)
  return 1
