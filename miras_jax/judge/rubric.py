"""The rubric: what a judge is told, as a data file with a name and a version."""

import dataclasses
import hashlib
import importlib.resources
import json
import pathlib
import re

from input_pipeline import regular_file
from miras_jax.errors import UserError

LEVELS = (1, 2, 3, 4, 5)
FIRST, SECOND, TIE = "first", "second", "tie"
MAX_BYTES = 1 << 20
_TEXTS = ("name", "role", "score_task", "pair_task")
_COUNTS = ("version", "usual_tokens", "max_tokens")


@dataclasses.dataclass(frozen=True)
class Rubric:
  """A rubric file. criteria: {name: (question, {level: description})}; digest: SHA-256
  of the file's bytes."""

  name: str
  version: int
  role: str
  score_task: str
  pair_task: str
  criteria: dict[str, tuple[str, dict[int, str]]]
  usual_tokens: int
  max_tokens: int
  digest: str

  def criteria_text(self) -> str:
    """The criteria with their levels, for a prompt or a page."""
    lines = []
    for name, (question, levels) in self.criteria.items():
      lines.append(f"{name}: {question}")
      lines += [f"  {level}: {levels[level]}" for level in LEVELS]
    return "\n".join(lines)


def read(path=None) -> Rubric:
  """The rubric in a file, the package's own by default. Raises UserError."""
  if path is None:
    own = importlib.resources.files("miras_jax.judge").joinpath("rubric.json")
    return _parse(own.read_bytes(), "rubric.json")
  try:
    return _parse(regular_file.read_bytes(pathlib.Path(path), MAX_BYTES), path)
  except OSError as error:
    raise UserError(f"--rubric={path}: {error.strerror}") from None


def _parse(data, path):
  try:
    found = json.loads(data)
    texts = {name: _text(found, name) for name in _TEXTS}
    counts = {name: _count(found, name) for name in _COUNTS}
    criteria = dict(_criterion(c) for c in found["criteria"])
    if not criteria:
      raise ValueError("has no criteria")
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    said = f"lacks {error}" if isinstance(error, KeyError) else str(error)
    raise UserError(
      f"{path}: is no rubric: {said}; copy miras_jax/judge/rubric.json and change that"
    ) from None
  digest = hashlib.sha256(data).hexdigest()
  return Rubric(criteria=criteria, digest=digest, **texts, **counts)


def _criterion(found):
  name = _text(found, "name")
  if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or name in ("reason", "winner"):
    raise ValueError(f"criterion {name!r}: want a name of small letters and _")
  levels = {level: _text(found["levels"], str(level)) for level in LEVELS}
  return name, (_text(found, "question"), levels)


def _text(found, name):
  if not isinstance(found[name], str) or not found[name].strip():
    raise ValueError(f"{name} is no text")
  return found[name]


def _count(found, name):
  value = found[name]
  if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**6:
    raise ValueError(f"{name}={value!r} is no whole number above 0")
  return value
