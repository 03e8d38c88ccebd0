"""Questions and answers around an expression, from lists that a user can replace.

Which of several wordings a record gets depends on its id alone, so that a data set is
built the same on every machine.
"""

import functools
import hashlib
import json
import pathlib

from miras_jax.errors import UserError

ENGLISH = pathlib.Path(__file__).parent / "wordings" / "en.json"


def choose(kind: str, key: str, path=ENGLISH, **fields: str) -> str:
  """The wording of a list ("phrase", "answer", ...) for `key`, its fields filled in."""
  return fill(_chosen(kind, key, path), fields)


def value_of(text: str, kind: str, key: str, path=ENGLISH) -> str | None:
  """What `choose` filled into a wording of one field; None where `text` is another."""
  before, _, rest = _chosen(kind, key, path).partition("{")
  after = rest.partition("}")[2]
  inside = len(before), len(text) - len(after)
  fits = text.startswith(before) and text.endswith(after) and inside[0] < inside[1]
  return text[slice(*inside)] if fits else None


def _chosen(kind, key, path):
  wordings = _lists(pathlib.Path(path))[kind]
  number = int.from_bytes(hashlib.sha256(f"{kind}\0{key}".encode()).digest()[:8], "big")
  return wordings[number % len(wordings)]


def fill(text: str, fields) -> str:
  """`{name}` of a wording by its value; braces inside a value stay as they are."""
  for i, part in enumerate(parts := text.split("{")):
    if i:
      name, close, rest = part.partition("}")
      if not close or name not in fields:
        raise UserError(f"wording {text!r}: {{{name}}} is none of {sorted(fields)}")
      parts[i] = f"{fields[name]}{rest}"
  return "".join(parts)


@functools.cache
def _lists(path):
  return json.loads(path.read_text(encoding="utf-8"))
