"""Reads what `miras eval` wrote: predictions.jsonl, and metrics.json beside it.

Nothing in either is trusted: a line that cannot be used is a Problem that names it.
"""

import json
import pathlib
import sys
from typing import NamedTuple

from input_pipeline import mask_ops, regular_file
from input_pipeline.records import Problem
from miras_jax.errors import UserError

FILE, ABOUT = "predictions.jsonl", "metrics.json"
MOST_BYTES = 1 << 28  # of a line, and of metrics.json
MOST = 1_000_000  # of turns, of [SEG] in one


class Target(NamedTuple):
  """A `[SEG]` that is due. mask, true: COCO RLE, or None where the line has none."""

  turn: int
  index: int
  name: str
  mask: dict | None
  true: dict | None


class Turn(NamedTuple):
  user: str
  answer: str
  gold: str
  num_seg: int


class Talk(NamedTuple):
  """One conversation of predictions.jsonl; `line` counts from 1."""

  line: int
  id: str
  image: str
  turns: tuple[Turn, ...]
  targets: tuple[Target, ...]

  def asked(self) -> tuple:
    """What the data set says, not the model: equal for one example in any run."""
    said = tuple((t.user, t.gold) for t in self.turns)
    due = tuple((t.turn, t.index, t.name) for t in self.targets)
    return self.id, self.image, said, due


class Run(NamedTuple):
  """The predictions of one run. about: its metrics.json, {} where there is none."""

  label: str
  path: str
  talks: list[Talk]
  problems: list[Problem]
  about: dict


def read(path, label) -> Run:
  """Reads a folder of `miras eval --out`, or its predictions.jsonl.

  Raises UserError where there is no such file, or no line of it can be used.
  """
  file = pathlib.Path(path)
  file = file / FILE if file.is_dir() else file
  if not file.is_file():
    raise UserError(f"{path}: no {FILE} there; want a folder that miras eval wrote")
  talks, problems = [], []
  for number, line in _lines(file):
    try:
      talks.append(_talk(number, line))
    except ValueError as error:
      problems.append(Problem(str(file), number, str(error)))
  if not talks:
    why = f"; {problems[0]}" if problems else ""
    raise UserError(f"{file}: no prediction in it{why}")
  return Run(label, str(path), talks, problems, _about(file.with_name(ABOUT)))


def _lines(file):
  """(number, bytes) of each line that is not blank; a longer one is cut short."""
  with open(file, "rb") as stream:
    number = 0
    while line := stream.readline(MOST_BYTES):
      number += 1
      while not line.endswith(b"\n") and (more := stream.readline(MOST_BYTES)):
        line = more[-1:]  # what is left of it is no JSON
      if line.strip():
        yield number, line


def _talk(number, line):
  plain = _parse(line)
  turns = [_turn(x) for x in _list(plain, "turns")]
  targets = [_target(x, len(turns)) for x in _list(plain, "targets")]
  return Talk(
    number, _text(plain, "id"), _text(plain, "image"), tuple(turns), tuple(targets)
  )


def _parse(line):
  try:
    plain = json.loads(line)
  except (ValueError, RecursionError) as error:
    reason = str(error) or type(error).__name__
    raise ValueError(f"not a line of JSON: {reason}") from None
  if not isinstance(plain, dict):
    raise ValueError(f"holds a {type(plain).__name__}, want a conversation")
  return plain


def _turn(x):
  return Turn(*(_text(x, k) for k in ("user", "answer", "gold")), _count(x, "num_seg"))


def _target(x, turns):
  turn = _count(x, "turn")
  if turn >= turns:
    raise ValueError(f"a target of turn {turn}, there are {turns}")
  mask, true = (_mask(x, k) for k in ("mask", "true"))
  if true is not None:
    mask_ops.rle_area(true)  # proves its runs: what all are measured by must be sound
  return Target(turn, _count(x, "index"), _text(x, "name"), mask, true)


def _mask(x, name):
  """An RLE, or None where there is none; whether its runs add up is seen later."""
  rle = x.get(name)
  if rle is None:
    return None
  if not isinstance(rle, dict) or not {"size", "counts"} <= rle.keys():
    raise ValueError(f"{name!r} is no RLE with size and counts")
  return rle


def _field(x, name, kind):
  if not isinstance(x, dict):
    raise ValueError(f"holds a {type(x).__name__} where an object is due")
  value = x.get(name)
  if not isinstance(value, kind) or isinstance(value, bool):
    raise ValueError(f"{name!r} is {_shown(value)}, want a {kind.__name__}")
  return value


def _list(x, name):
  return _field(x, name, list)


def _text(x, name):
  value = _field(x, name, str)
  try:
    value.encode()
  except UnicodeEncodeError:
    raise ValueError(f"{name!r} holds half a character") from None
  return value


def _count(x, name):
  if not 0 <= (value := _field(x, name, int)) <= MOST:
    raise ValueError(f"{name!r} is not a number from 0 to {MOST:,}")
  return value


def _shown(value):
  return "missing" if value is None else f"a {type(value).__name__}"


def _about(file):
  """metrics.json as it is, {} where it is absent. It only adds: one that cannot be used
  is named and left out."""
  try:
    return regular_file.read_object(file, MOST_BYTES)
  except UserError as error:
    print(f"warning: {error} (left out)", file=sys.stderr)
    return {}


def at(about, *path, kind=str, default=None):
  """The value at a path of a metrics.json where it is of the kind, else `default`."""
  for name in path:
    about = about.get(name) if isinstance(about, dict) else None
  return about if isinstance(about, kind) else default


def decode(rle):
  """mask_HW bool of an RLE. ValueError where its runs make no mask."""
  return mask_ops.decode_rle(rle).astype(bool)
