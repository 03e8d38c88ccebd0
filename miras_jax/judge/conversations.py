"""The conversations that are judged: `predictions.jsonl`, one a line, and its gold.

What a judge needs of a line is its id and turns; image, targets and gold answers are
used where they are there, and named where they are missing and asked for.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import NamedTuple

from input_pipeline import regular_file
from input_pipeline.records import MOST_NAME, RecordError, cut
from miras_jax.errors import UserError

MAX_LINE = 16 << 20  # bytes
MAX_TURNS = 256
GOLD = "gold"


class Turn(NamedTuple):
  """What the user said and what was answered; gold: the data's answer, if known."""

  user: str
  answer: str
  gold: str | None = None


@dataclasses.dataclass(frozen=True)
class Conversation:
  """One conversation. names: what the targets are called, in order; masks: the COCO RLE
  of each, None where there is none; ious: of each mask, None where it is not known.

  Targets are those of the last turn that has any: a judge is asked what is marked in
  the end, and masks of earlier turns over the same picture would hide it.
  """

  id: str
  image: str
  turns: tuple[Turn, ...]
  names: tuple[str, ...] = ()
  masks: tuple[dict | None, ...] = ()
  ious: tuple[float | None, ...] = ()
  true_masks: tuple[dict | None, ...] = ()

  @property
  def answers(self) -> tuple[str, ...]:
    return tuple(turn.answer for turn in self.turns)

  def with_answers(self, answers) -> "Conversation":
    """The same questions, answered otherwise."""
    turns = (t._replace(answer=a) for t, a in zip(self.turns, answers, strict=True))
    return dataclasses.replace(self, turns=tuple(turns))


@dataclasses.dataclass(frozen=True)
class System:
  """The answers of one model. name: what results call it; digest: of its file."""

  name: str
  digest: str
  conversations: dict[str, Conversation]


def read(path) -> System:
  """Reads a predictions.jsonl, or that of a folder of `miras eval --out`.

  Raises UserError, RecordError naming file, line and field.
  """
  name, path = str(path), pathlib.Path(path)
  path = path / "predictions.jsonl" if path.is_dir() else path
  found, numbers, digest = {}, {}, hashlib.sha256()
  try:
    with regular_file.open_regular(path) as file:
      number = 0
      while line := file.readline(MAX_LINE + 1):
        number += 1
        digest.update(line)
        if not line.strip():
          continue
        one = _parse(path, number, line)
        if one.id in numbers:
          twin = f"id {_shown(one.id)} is that of line {numbers[one.id]}, too"
          raise RecordError(path, number, twin)
        numbers[one.id], found[one.id] = number, one
  except OSError as error:
    raise UserError(f"{path}: {error.strerror}") from None
  if not found:
    raise UserError(f"{path}: holds no conversation")
  return System(name, digest.hexdigest(), found)


def gold_of(system: System) -> System:
  """The data's own answers, as a system beside the one that was asked."""
  missing = [
    c.id for c in system.conversations.values() if any(t.gold is None for t in c.turns)
  ]
  if missing:
    raise UserError(
      f"{system.name}: {len(missing)} conversations have turns without `gold`, e.g."
      f" {_shown(missing[0])}: nothing to compare with"
    )
  conversations = {
    c.id: dataclasses.replace(
      c.with_answers([turn.gold for turn in c.turns]),
      masks=c.true_masks,
      ious=(None,) * len(c.masks),
    )
    for c in system.conversations.values()
  }
  return System(GOLD, system.digest, conversations)


def in_common(
  systems: list[System], allow_missing=False
) -> tuple[list[str], list[str]]:
  """(ids that every system answered to the same user, what is missing in words).

  Order: that of the first system. Raises UserError where something is missing and that
  is not allowed, or where nothing is left.
  """
  first, *others = systems
  left, notes = list(first.conversations), []
  for other in others:
    lost, odd = _difference(first, other)
    left = [i for i in left if i in other.conversations and i not in odd]
    notes += [
      f"{name}: {len(ids)} of {count} conversations {what}, e.g. {_shown(min(ids))}"
      for name, ids, count, what in (
        (other.name, lost[0], len(first.conversations), f"of {first.name} are missing"),
        (first.name, lost[1], len(other.conversations), f"of {other.name} are missing"),
        (other.name, odd, len(first.conversations), "have other questions"),
      )
      if ids
    ]
  if not left:
    raise UserError(f"{'; '.join(notes)}: predictions of another data set?")
  if notes and not allow_missing:
    raise UserError(f"{'; '.join(notes)}; --allow-missing judges what all have")
  return left, notes


def _shown(name):
  return repr(cut(name, MOST_NAME))


def _difference(first, other):
  """((ids only the first has, only the other), ids with other questions)."""
  ours, theirs = first.conversations, other.conversations
  lost = (ours.keys() - theirs.keys(), theirs.keys() - ours.keys())
  odd = {i for i in ours.keys() & theirs.keys() if _asked(ours[i]) != _asked(theirs[i])}
  return lost, odd


def _asked(conversation):
  return [turn.user for turn in conversation.turns]


def _parse(path, number, line):
  try:
    if len(line) > MAX_LINE:
      raise ValueError(f"has more than {MAX_LINE:,} bytes")
    fields = json.loads(line)
    if not isinstance(fields, dict):
      raise ValueError(f"is a JSON {type(fields).__name__}, want an object")
    return _conversation(fields)
  except RecursionError:
    raise RecordError(path, number, "is nested too deeply") from None
  except ValueError as error:
    raise RecordError(path, number, _reason(error)) from None


def _reason(error):
  is_json = isinstance(error, json.JSONDecodeError)
  return f"is no JSON: {error.msg}" if is_json else str(error)


def _conversation(fields):
  turns = fields.get("turns")
  if not isinstance(turns, list) or not 0 < len(turns) <= MAX_TURNS:
    raise ValueError(f"turns is no list of 1 to {MAX_TURNS}")
  targets = fields.get("targets") or []
  if not (isinstance(targets, list) and all(isinstance(t, dict) for t in targets)):
    raise ValueError("targets is no list of objects")
  targets = _last(targets)
  return Conversation(
    id=_text(fields, "id"),
    image=_text(fields, "image") if fields.get("image") is not None else "",
    turns=tuple(_turn(turn, i) for i, turn in enumerate(turns)),
    names=tuple(str(t.get("name") or "") for t in targets),
    masks=tuple(_mask(t) if t.get("produced", True) else None for t in targets),
    ious=tuple(_share(t.get("iou")) for t in targets),
    true_masks=tuple(_rle(t.get("true"), "true") for t in targets),
  )


def _last(targets):
  """The targets of the last turn that has any; all, where they do not say."""
  turns = [target.get("turn") for target in targets]
  if not all(type(turn) is int for turn in turns):
    return targets
  return [t for t, turn in zip(targets, turns, strict=True) if turn == max(turns)]


def _turn(turn, i):
  if not isinstance(turn, dict):
    raise ValueError(f"turns[{i}] is no object with user and answer")
  gold = turn.get("gold")
  return Turn(
    _text(turn, "user", f"turns[{i}]."),
    _text(turn, "answer", f"turns[{i}]."),
    None if gold is None else _text(turn, "gold", f"turns[{i}]."),
  )


def _mask(target):
  return _rle(target.get("mask"), "mask")


def _rle(rle, name):
  if rle is not None and not isinstance(rle, dict):
    raise ValueError(f"targets: {name} is no RLE")
  return rle


def _share(value):
  sound = isinstance(value, int | float) and not isinstance(value, bool)
  return float(value) if sound and 0 <= value <= 1 else None


def _text(fields, name, prefix=""):
  value = fields.get(name)
  if not isinstance(value, str):
    said = "is missing" if value is None else f"is a JSON {type(value).__name__}"
    raise ValueError(f"{prefix}{name} {said}, want a text")
  return value
