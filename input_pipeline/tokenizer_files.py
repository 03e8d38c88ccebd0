"""The files of a tokenizer's folder: what they say beside the vocabulary, in bounds.

A folder is a stranger's: files without an end, patterns that take exponential time and
ids that no vocabulary has are refused before a library sees them.
"""

import functools
import json
import pathlib
import re
from typing import Any, NamedTuple

from input_pipeline.regular_file import check_folder, read_bytes, read_object
from miras_jax.errors import UserError
from miras_jax.logs import log

MODEL, FAST, CONFIG = "tokenizer.model", "tokenizer.json", "tokenizer_config.json"
ADDED = "added_tokens.json"
NAMES = (
  MODEL, FAST, CONFIG, ADDED, "special_tokens_map.json", "chat_template.jinja",
  "chat_template.json", "vocab.json", "merges.txt", "config.json",
)  # fmt: skip
MAX_BYTES = 48 << 20  # the largest published vocabulary has 34 MB
MAX_ID = 1 << 22
MAX_TOKEN, MAX_PATTERN, MAX_PATTERNS, MAX_DEPTH = 512, 4096, 64, 32
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")
_REPEAT = re.compile(r"[*+?]|\{(\d*)(?:,(\d*))?\}")


class Settings(NamedTuple):
  """What stands beside a vocabulary.

  added    {token: id}
  bos, eos token, or None where nothing is said
  add_bos  False for a tokenizer that knows a bos and never writes it
  legacy   see SentencePieceCodec; None where nothing is said
  path     the file that says so, for messages
  """

  added: dict
  bos: str | None
  eos: str | None
  add_bos: bool
  legacy: bool | None
  path: Any


def read_settings(folder):
  """Settings of a folder. UserError naming a file and what is wrong in it."""
  folder = pathlib.Path(folder)
  path = folder / CONFIG
  config = read_object(path)
  older = read_object(folder / "special_tokens_map.json")
  added = _stored(folder / ADDED)
  for token, i in _decoder(config, path).items():
    if added.setdefault(token, i) != i:
      raise UserError(f"{path}: {token!r} is {i}, and {added[token]} in {ADDED}")
  bos, eos = (
    _token(config.get(name, older.get(name)), name, path)
    for name in ("bos_token", "eos_token")
  )
  flags = {name: config.get(name) for name in ("add_bos_token", "legacy")}
  for name, value in flags.items():
    if value is not None and type(value) is not bool:
      raise UserError(f"{path}: {name} is {value!r}, want true or false")
  add_bos = flags["add_bos_token"] is not False
  return Settings(added, bos, eos, add_bos, flags["legacy"], path)


def check(folder):
  """UserError for a file that no tokenizer has: endless, a pointer, too large."""
  check_folder(folder, NAMES)
  folder = pathlib.Path(folder)
  for path in (folder / name for name in NAMES):
    if path.is_file() and path.stat().st_size > MAX_BYTES:
      raise UserError(
        f"{path}: has {path.stat().st_size:,} bytes, want at most {MAX_BYTES:,}"
      )


def is_tiktoken(path):
  """Whether a `tokenizer.model` is Meta's list of ranks instead of a SentencePiece."""
  path = pathlib.Path(path)
  if not path.is_file():
    return False
  with open(path, "rb") as file:
    return _TIKTOKEN.match(file.read(1024)) is not None


def refuse_tiktoken(path):
  """UserError for such a file, saying what to take instead."""
  if is_tiktoken(path):
    raise UserError(
      f"{path}: is a vocabulary of tiktoken, which lacks its special tokens and how it"
      f" splits text; take the folder with {FAST} and {CONFIG} of the same model, as"
      " Hugging Face has it"
    )


@functools.cache
def warn_of_legacy(path, legacy):
  """Once a file: what was taken because nothing says it."""
  log.warning(
    "%s: no `legacy` in a %s says whether a space goes before text behind a control"
    " token: taken as %s, as in Llama 2 and Vicuna 1.5; the first Llama: true",
    path, CONFIG, str(legacy).lower(),
  )  # fmt: skip


# -- added tokens ---------------------------------------------------------------------


def _stored(path):
  """{token: id} of `added_tokens.json`."""
  found = read_object(path)
  for token, i in found.items():
    _check_added(token, i, path)
  return found


def _decoder(config, path):
  """{token: id} of `added_tokens_decoder`: {"290": {"content": "[SEG]", ...}}."""
  entries = config.get("added_tokens_decoder") or {}
  if not isinstance(entries, dict):
    raise UserError(f"{path}: added_tokens_decoder is no object of ids")
  found = {}
  for key, entry in entries.items():
    token = _token(entry, f"added_tokens_decoder {key!r:.40}", path)
    if token is None or not re.fullmatch(r"\d{1,9}", key):
      raise UserError(
        f"{path}: added_tokens_decoder {key!r:.40}: want an id and a token"
      )
    _check_added(token, int(key), path)
    if token in found:
      raise UserError(f"{path}: {token!r} is both {found[token]} and {int(key)}")
    found[token] = int(key)
  return found


def _check_id(token, i, path):
  if not isinstance(i, int) or i < 0:
    raise UserError(f"{path}: the id of {token!r:.40} is {i!r}, want a whole number")
  if i > MAX_ID:  # its library makes a place for every id below
    raise UserError(f"{path}: the id of {token!r:.40} is above {MAX_ID:,}")


def _check_added(token, i, path):
  _check_id(token, i, path)
  if not 0 < len(token) <= MAX_TOKEN:
    raise UserError(f"{path}: a token of {len(token):,} letters: {token!r:.40}")


def _token(entry, name, path):
  """Text of a token, stored as text or as an object with `content`; "" is None."""
  if isinstance(entry, dict):
    entry = entry.get("content")
  if entry is not None and not isinstance(entry, str):
    raise UserError(f"{path}: {name} is {str(entry)[:40]!r}, want a token")
  return entry or None


# -- tokenizer.json -------------------------------------------------------------------


def own_tokens(path):
  """Every token of a `tokenizer.json`. UserError for one that may hang its library."""
  try:
    parts = json.loads(read_bytes(path, MAX_BYTES))
    vocab = parts["model"]["vocab"]
    tokens = {pair[0] for pair in vocab} if isinstance(vocab, list) else set(vocab)
    for token, i in vocab.items() if isinstance(vocab, dict) else ():
      _check_id(token, i, path)
    for entry in parts.get("added_tokens") or ():
      _check_added(entry["content"], entry["id"], path)
      tokens.add(entry["content"])
    patterns = list(_patterns(parts))
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    why = getattr(error, "strerror", None) or repr(error)[:80]
    raise UserError(f"{path}: cannot be read: {why}") from None
  if len(patterns) > MAX_PATTERNS:
    raise UserError(f"{path}: {len(patterns):,} patterns, want at most {MAX_PATTERNS}")
  for pattern in patterns:
    if why := danger(pattern):
      raise UserError(f"{path}: the pattern {pattern[:60]!a} {why}: refused")
  return tokens


def _patterns(parts):
  """Regular expressions of all components; the vocabulary has none."""
  for key, value in parts.items() if isinstance(parts, dict) else enumerate(parts):
    if key == "Regex" and isinstance(value, str):
      yield value
    elif isinstance(value, dict | list) and key not in ("model", "added_tokens"):
      yield from _patterns(value)


def danger(pattern):
  """Why a regular expression may take exponential time or stack, or ""."""
  if len(pattern) > MAX_PATTERN:
    return f"has {len(pattern):,} letters"
  repeats, at, in_class = [False], 0, 0  # of the groups around, outermost first
  while at < len(pattern):
    letter, closed = pattern[at], None
    at += 2 if letter == "\\" else 1
    if letter == "[":
      in_class += 1
    elif in_class:
      in_class -= letter == "]"
    elif letter == "(":
      repeats.append(False)
      at += pattern.startswith("?", at)  # of (?:, no repetition
      continue
    elif letter == ")" and len(repeats) > 1:
      closed = repeats.pop()
    if max(len(repeats), in_class) > MAX_DEPTH:
      return f"nests more than {MAX_DEPTH} groups"
    times, at = (1, at) if in_class else _times(pattern, at)
    if closed and times > 1:
      return "repeats what it already repeats, which may take for ever"
    repeats[-1] |= bool(closed) or times > 1
  return ""


def _times(pattern, at):
  """(how often what stands before `at` may repeat, where the pattern goes on)."""
  most = 1
  while match := _REPEAT.match(pattern, at):
    at = match.end()
    if match[0][0] == "{":
      last = match[1] if match[2] is None else match[2]
      most = max(most, MAX_PATTERN if len(last) > 3 or not last else int(last))
    elif match[0] != "?":
      most = MAX_PATTERN
  return most, at
