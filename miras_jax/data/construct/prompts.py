"""The prompts: a data file with a name and a version, which a user can copy."""

import dataclasses
import hashlib
import importlib.resources
import json
import pathlib
import re

from input_pipeline import regular_file
from miras_jax.errors import UserError

MAX_BYTES = 1 << 20
# Text: the fields that have to stand in it.
TEXTS = {
  "name": (),
  "language": (),
  "system": (),
  "elements": ("most",),
  "tree": ("paths", "least", "longest"),
  "dialogue": ("letters",),
  "vision": (),
}


@dataclasses.dataclass(frozen=True)
class Prompts:
  """A file of prompts. texts: by the keys of TEXTS; digest: SHA-256 of its bytes."""

  texts: dict[str, str]
  version: int
  no_focus: frozenset[str]
  digest: str

  @property
  def language(self) -> str:
    return self.texts["language"]

  def fill(self, kind: str, **fields) -> str:
    """A text with its fields filled in."""
    text = self.texts[kind]
    for name in TEXTS[kind]:
      text = text.replace(f"{{{name}}}", str(fields[name]))
    return text


def read(path=None) -> Prompts:
  """The prompts in a file, the package's own by default. Raises UserError."""
  if path is None:
    own = importlib.resources.files("miras_jax.data.construct").joinpath("prompts.json")
    return _parse(own.read_bytes(), "prompts.json")
  try:
    return _parse(regular_file.read_bytes(pathlib.Path(path), MAX_BYTES), path)
  except OSError as error:
    raise UserError(f"--prompts={path}: {error.strerror}") from None


def _parse(data, path):
  try:
    found = json.loads(data)
    texts = {name: _text(found[name], name, wanted) for name, wanted in TEXTS.items()}
    version, words = found["version"], found["no_focus"]
    if not isinstance(version, int) or isinstance(version, bool):
      raise ValueError("version is no whole number")
    if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
      raise ValueError("no_focus is no list of words")
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    said = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    raise UserError(
      f"{path}: holds no prompts: {said}; copy miras_jax/data/construct/prompts.json"
      " and change that"
    ) from None
  digest = hashlib.sha256(data).hexdigest()
  return Prompts(texts, version, frozenset(w.casefold() for w in words), digest)


def _text(value, name, wanted):
  if not isinstance(value, str) or not value.strip():
    raise ValueError(f"{name} is no text")
  if sorted(re.findall(r"\{(\w*)\}", value)) != sorted(wanted):
    fields = ", ".join(f"{{{field}}}" for field in wanted) or "no field"
    raise ValueError(f"{name} has to hold {fields}")
  return value
