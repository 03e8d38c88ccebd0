"""The `miras` commands of the pages: found, and asked of the real parsers."""

import argparse
import ast
import pathlib
import re
import shlex
from typing import NamedTuple

from input_pipeline.builders import registry
from miras_jax import cli
from miras_jax.config import file as config_file
from miras_jax.data import build
from miras_jax.options import Parser

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^ *```(?:bash|console|sh)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
ANY_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(miras [^`]+)`")
ENDS = re.compile(r"[|&;>]|2>")


class Command(NamedTuple):
  """argv of a `miras` command, and the page that shows it."""

  page: str
  argv: tuple[str, ...]

  def __str__(self):
    return f"{self.page}: miras {' '.join(self.argv)}"


class Parsed(Exception):
  """Raised in place of going on, once the options are parsed."""


def pages():
  """Every page of Markdown that people read."""
  found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch/README.md"]
  return found + sorted((ROOT / "docs").rglob("*.md"))


def name_of(path) -> str:
  return path.relative_to(ROOT).as_posix()


def in_blocks() -> list[Command]:
  """The commands of every block of shell, and of the commands' own help."""
  found = []
  for path in pages():
    text = "".join(BLOCK.findall(path.read_text()))
    found += [Command(name_of(path), argv) for argv in of_shell(text)]
  for folder, _, example in cli.COMMANDS.values():
    path = ROOT / "miras_jax" / folder / "command.py"
    text = ast.get_docstring(ast.parse(path.read_text()))
    shown = "\n".join(re.findall(r"^ +(miras (?:.*\\\n)*.*)$", text, re.MULTILINE))
    shown = re.sub(r"(?<=\S)  +\S.*", "", shown)  # what stands beside a command
    for argv in [*of_shell(shown), *of_shell(example)]:
      found.append(Command(f"miras_jax/{folder}/command.py", argv))
  return found


def of_shell(text):
  """argv of each `miras` in lines of shell."""
  for line in text.replace("\\\n", " ").splitlines():
    words = shlex.split(line, comments=True)
    starts = [i for i, w in enumerate(words) if w == "miras" or w.endswith("/miras")]
    for i in starts:
      rest = words[i + 1 :]
      end = next((k for k, word in enumerate(rest) if ENDS.match(word)), len(rest))
      yield tuple(rest[:end])


def inline() -> list[Command]:
  """The commands between backticks; of `a|b` the first, without `[...]` and `...`."""
  found = []
  for path in pages():
    text = ANY_BLOCK.sub("", path.read_text())
    for shown in INLINE.findall(text.replace("\\|", "|")):
      words = re.sub(r"\[(?=-| )|\](?= |$)|\[[A-Z]\.\.\.\]", "", shown).split()[1:]
      words = [w if "=" in w else w.split("|")[0] for w in words if w != "..."]
      found.append(Command(name_of(path), tuple(words)))
  return found


def parse(argv, monkeypatch):
  """Parses as the command does and stops; reads the config that the options name."""
  fields = []
  split, real = config_file.split_fields, Parser.parse_args

  def keep_fields(argv):
    rest, found = split(argv)
    fields.extend(found)
    return rest, found

  def parse_args(self, args=None, namespace=None):
    options = real(self, args, namespace)
    config = getattr(options, "config", None)
    if config and config != "FILE":
      config_file.read(config, fields)
    raise Parsed

  with monkeypatch.context() as patch:
    patch.setattr(config_file, "split_fields", keep_fields)
    patch.setattr(Parser, "parse_args", parse_args)
    patch.setattr(build, "_make", stop)  # it parses by itself
    run(argv)


def unknown_options(argv, monkeypatch) -> list[str]:
  """The options of `argv` that the command has not; required ones may be missing."""
  known = set()

  def parse_args(self, args=None, namespace=None):
    known.update(options_of(self, args))
    raise Parsed

  with monkeypatch.context() as patch:
    patch.setattr(Parser, "parse_args", parse_args)
    patch.setattr(Parser, "parse_known_args", parse_args)
    run(argv)
  if argv[:2] == ("data", "build") and len(argv) > 2:
    known |= {f"--{name}" for name in registry.options(argv[2])}
  given = [word.split("=")[0] for word in argv if word.startswith("--")]
  return [name for name in given if name not in known | {"--help"}
          and not name.startswith("--config.")]  # fmt: skip


def run(argv):
  """`miras ARGV` up to its parser; some commands have none."""
  try:
    cli.main([word for word in argv if word != "--help"])
  except Parsed:
    return


def stop(*_):
  raise Parsed


def options_of(parser, args):
  """Option strings of a parser, and of its command that `args` name."""
  for action in parser._actions:
    yield from action.option_strings
    if isinstance(action, argparse._SubParsersAction):
      for name in (w for w in args if w in action.choices):
        yield from options_of(action.choices[name], args)
