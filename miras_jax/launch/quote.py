"""User's words in shells, YAML and Kubernetes: every text arrives as it was given."""

import re
import shlex
from collections.abc import Sequence

import yaml

from miras_jax.errors import UserError

# What no YAML reader takes for anything but a string; the rest is quoted.
PLAIN = re.compile(r"(--)?[A-Za-z/][\w./=@-]+(:[\w./=@-]+)*", re.ASCII)
WORDS = ("yes", "no", "on", "off", "true", "false", "null")
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?", re.ASCII)
TIME = r"\d+(-\d+)?(:\d+){0,2}"  # Slurm's
LABEL_LENGTH = 63  # of Kubernetes: names of objects here, and values of labels
NAME_LENGTH = 28  # what is left of 63 letters when every layer has added its own


def check_text(option, text) -> str:
  """The text of an option. UserError where no file could hold it as it is."""
  if re.search("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff]", text):
    raise UserError(f"{option}={text!r} has a control character in it; leave it out")
  return text


def check_name(option, text) -> str:
  """A name that Kubernetes, Slurm and Google Cloud all take."""
  if not NAME.fullmatch(text) or len(text) > NAME_LENGTH:
    raise UserError(
      f"{option}={text!r}: want at most {NAME_LENGTH} small letters, digits and"
      " hyphens, a letter first and no hyphen last"
    )
  return text


def check_label(option, text, pattern=NAME) -> str:
  """A name that Kubernetes takes, or with LABEL a label's value."""
  if not pattern.fullmatch(text) or len(text) > LABEL_LENGTH:
    letters = "small letters" if pattern is NAME else "letters"
    raise UserError(
      f"{option}={text!r}: want a name of Kubernetes, at most {LABEL_LENGTH} {letters},"
      " digits and hyphens"
    )
  return text


def check_token(option, text, pattern=r"[\w./:@-]+") -> str:
  """A text that stands alone where nothing can be quoted, and is no option."""
  if not re.fullmatch(pattern, text, re.ASCII) or text.startswith("-"):
    want = "D-HH:MM:SS or HH:MM:SS" if pattern == TIME else "letters, digits and ./:@_-"
    raise UserError(f"{option}={text!r}: want {want} alone")
  return text


def name_from(text) -> str:
  """A name as check_name takes it, from a file's name."""
  found = re.sub("[^a-z0-9]+", "-", text.lower()).lstrip("-0123456789")
  return found[:NAME_LENGTH].strip("-") or "miras"


def shell(words: Sequence[str], indent="  ") -> str:
  """One command for a shell, each option on a line of its own."""
  first = [shlex.quote(w) for w in words]
  cut = next((i for i, w in enumerate(words) if w.startswith("--")), len(words))
  head = " ".join(first[:cut])
  return f" \\\n{indent}".join([head, *first[cut:]])


def home(path) -> str:
  """A path for a shell, which finds `~/` only where nothing quotes it."""
  if path == "~" or path.startswith("~/"):
    return f'"$HOME"{shlex.quote(path[1:]) if path[1:] else ""}'
  return shlex.quote(path)


def heredoc(text) -> tuple[str, str]:
  """(word that ends it, text) for `<<'WORD'`: a word that is no line of the text."""
  word = "END"
  while word in text.splitlines():
    word += "_"
  return word, text if text.endswith("\n") else text + "\n"


def kubernetes(words: Sequence[str]) -> list[str]:
  """A container's command: Kubernetes replaces $(NAME) in it, $$ stands for a $."""
  return [word.replace("$", "$$") for word in words]


class _Dumper(yaml.SafeDumper):
  """Strings quoted unless they are plain words, block lists, numbers in one line."""

  def ignore_aliases(self, data):
    return True

  def increase_indent(self, flow=False, indentless=False):
    return super().increase_indent(flow, False)


def _text(dumper, value):
  is_plain = PLAIN.fullmatch(value) and value.lower() not in WORDS
  style = None if is_plain else '"'
  if value.endswith("\n"):  # a script; PyYAML quotes what a block cannot hold
    style = "|"
  return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _list(dumper, value):
  flow = all(isinstance(item, int) for item in value)
  return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=flow)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)


def documents(*parts) -> str:
  """YAML of plain dicts, a document each."""
  texts = [
    yaml.dump(
      part, Dumper=_Dumper, sort_keys=False, width=10**9, default_flow_style=False
    )
    for part in parts
  ]
  return "---\n".join(texts)
