"""What every command shares: its option parser, and one line for a user's mistake."""

import argparse
import difflib
import errno
import itertools
import os
import re
import sys

from miras_jax import streams
from miras_jax.errors import UserError
from miras_jax.storage import copies, reach

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
  errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
)  # fmt: skip


class Parser(argparse.ArgumentParser):
  """argparse whose mistakes are UserErrors that name the nearest valid option.

  `--max-cost` and `--max_cost` are one option, whichever a command calls it.
  """

  def __init__(self, *args, **kwargs):
    kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
    kwargs.setdefault("allow_abbrev", False)
    self._paths = set()
    super().__init__(*args, **kwargs)

  def add_path(self, *names, **options):
    """`add_argument` of a local file or folder; see `local_path`."""
    return self._add_path(local_path, names, options)

  def _add_path(self, kind, names, options):
    action = self.add_argument(*names, type=kind, **options)
    self._paths.add(action.dest)
    return action

  def add_number(self, name, default, *, least=1, **options):
    """`add_argument` of a whole number that is `least` or more."""

    def number(text):
      if not re.fullmatch("-?[0-9]{1,18}", text) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: want {least} or more")
      return int(text)

    return self.add_argument(name, type=number, default=default, **options)

  def add_place(self, *names, **options):
    """The same of what may also lie in a bucket, for a command that opens it there."""
    return self._add_path(expanded, names, options)

  def add_input(self, *names, **options):
    """The same of what is read: a bucket's is copied, and the copy's path is given."""
    return self._add_path(lambda x: copies.fetch(expanded(x)), names, options)

  def add_output(self, *names, **options):
    """The same of what is written: a bucket's is copied there when `run` ends."""
    return self._add_path(local_output, names, options)

  def parse_args(self, args=None, namespace=None):
    args = sys.argv[1:] if args is None else list(args)
    args = self._as_declared(args)
    self._refuse_empty_paths(args)
    parsed, unknown = self.parse_known_args(args, namespace)
    if unknown:
      name = unknown[0].split("=")[0]
      options = [o for a in self._actions for o in a.option_strings]
      raise UserError(f"{self.prog}: unknown option {name!r}{nearest(name, options)}")
    return parsed

  def _as_declared(self, args):
    """The arguments with every option spelt as it was added."""
    options = [o for a in self._actions for o in a.option_strings]
    known = {o.replace("-", "_"): o for o in options if o.startswith("--")}
    parts = (arg.partition("=") for arg in args)
    return [known.get(k.replace("-", "_"), k) + equals + v for k, equals, v in parts]

  def _refuse_empty_paths(self, args):
    """A path that is given and empty is a variable of the shell that is not set: taken
    for one that is left away, a command would do something else without a word."""
    paths = {
      o for a in self._actions if a.dest in self._paths for o in a.option_strings
    }
    for arg, after in itertools.zip_longest(args, args[1:]):
      name, equals, value = arg.partition("=")
      if name in paths and (after == "" if not equals else not value):
        raise UserError(f"{name}= is empty: name a path, or leave it away")

  def error(self, message):
    raise UserError(f"{self.prog}: {message} (see {self.prog} --help)")


def local_path(text: str) -> str:
  """A path of the command line with `~` expanded.

  Raises UserError for a bucket: it would become a local folder of that name.
  """
  reach.check_spelling(text)
  if scheme := re.match(r"(\w+)://", text):
    raise UserError(
      f"{text}: {scheme[1]}:// is not supported here; copy it from or to a local folder"
    )
  return os.path.expanduser(text)


def expanded(text: str) -> str:
  """A path with `~` expanded, or a place in a bucket as it is. UserError for others."""
  reach.check_spelling(text)
  return text if reach.is_remote(text) else local_path(text)


def local_output(text: str) -> str:
  """Where to write what is wanted at `text`; see `storage.copies.output`."""
  return copies.output(text) if reach.is_remote(text) else local_path(text)


def all_expanded(text: str) -> str:
  """`expanded` of each part of a list with commas."""
  return ",".join(map(expanded, text.split(",")))


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
    copies.publish()
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
  except Exception as error:
    if reach.is_of_client(error):
      status = _fail(reach.as_user_error("the bucket", "cannot be used", error))
    elif isinstance(error, OSError) and error.errno in NOT_OURS:
      status = _fail(f"{error.filename or 'output'}: {error.strerror}")
    else:
      raise
  status = streams.finish(status)
  if reach.given_up():  # the end of a call that was left behind is not waited for
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)


def _fail(message, details="") -> int:
  """Says `message` in one line, details below it; returns the exit status."""
  print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
  if details:
    print(details, file=sys.stderr)
  return 1
