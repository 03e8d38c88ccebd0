"""Checks one record of a PRIST list: `{img_id, dialogue: [{from, value}], focus}`.

`focus` may be a string (one target), null (the explicit empty target: nothing in the
image is meant) or a list of those, one per `[SEG]` in order of appearance. Control
tokens count in gpt turns only: what a human types is data. Unknown keys are ignored.
"""

import dataclasses

from input_pipeline import safe_files
from input_pipeline.records import OBJ_TOKEN, SEG_TOKEN

MAX_TURN_CHARACTERS = 32_768
MAX_TURNS = 256
MAX_FOCUS_CHARACTERS = 1024
MAX_FOCUSES = 256
_ROLES = {"human": "user", "gpt": "assistant"}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A record as far as it could be read; `img_id` and `focuses` are None when bad."""

  img_id: str | None
  turns: tuple[tuple[str, str], ...]
  focuses: tuple[str | None, ...] | None
  problems: tuple[str, ...]
  notes: tuple[str, ...]


def parse_entry(raw):
  """A record of the parsed list -> Entry with every reason why it is unusable."""
  if not isinstance(raw, dict):
    reason = f"is a {type(raw).__name__}, want an object with img_id, dialogue, focus"
    return Entry(None, (), None, (reason,), ())
  problems, notes = [], []
  img_id = _attempt(_parse_img_id, raw, problems)
  turns = _attempt(parse_dialogue, raw, problems)
  focuses = _attempt(_parse_focus, raw, problems)
  if turns is not None and focuses is not None:
    problems += _check_seg(turns, focuses)
  for k, (_, text) in enumerate(turns or ()):
    if not text.strip():
      notes.append(f"turn {k} is empty")
  return Entry(img_id, turns or (), focuses, tuple(problems), tuple(notes))


def _attempt(parse, raw, problems):
  try:
    return parse(raw)
  except ValueError as e:
    problems.append(str(e))
    return None


def _parse_img_id(raw):
  img_id = raw.get("img_id")
  if not isinstance(img_id, str):
    raise ValueError(f"img_id is {_kind(raw, 'img_id')}, want a file name")
  try:
    safe_files.check_relative(img_id)
    img_id.encode()
  except UnicodeEncodeError:
    raise ValueError("img_id holds half a character (unpaired surrogate)") from None
  except ValueError as e:
    raise ValueError(f"img_id {e}") from None
  return img_id


def parse_dialogue(raw, key="dialogue"):
  """`raw[key]`, a list of {from, value} -> turns, from human and gpt by turns.

  Raises ValueError for the first thing that is wrong with it.
  """
  dialogue = raw.get(key)
  if not isinstance(dialogue, list):
    raise ValueError(f"{key} is {_kind(raw, key)}, want a list of turns")
  if not dialogue:
    raise ValueError(f"{key} is empty")
  if len(dialogue) > MAX_TURNS:
    raise ValueError(f"{key} has {len(dialogue):,} turns, the limit is {MAX_TURNS}")
  turns = tuple(_parse_turn(k, turn) for k, turn in enumerate(dialogue))
  for k, (role, _) in enumerate(turns):
    if role != ("user", "assistant")[k % 2]:
      wanted = ("human", "gpt")[k % 2]
      raise ValueError(f"turn {k} is from {dialogue[k]['from']!r}, want {wanted!r}")
  if turns[-1][0] == "user":
    raise ValueError("the last turn is from 'human': it has no answer")
  return turns


def _parse_turn(k, turn):
  if not isinstance(turn, dict):
    raise ValueError(f"turn {k} is a {type(turn).__name__}, want {{from, value}}")
  role = turn.get("from")
  if not isinstance(role, str) or role not in _ROLES:
    raise ValueError(f"turn {k} is from {str(role)[:40]!r}, want 'human' or 'gpt'")
  text = turn.get("value")
  if not isinstance(text, str):
    raise ValueError(f"turn {k}: value is {_kind(turn, 'value')}, want a text")
  if len(text) > MAX_TURN_CHARACTERS:
    raise ValueError(
      f"turn {k} has {len(text):,} characters, the limit is {MAX_TURN_CHARACTERS:,}"
    )
  try:
    text.encode()
  except UnicodeEncodeError:
    raise ValueError(f"turn {k} holds half a character (unpaired surrogate)") from None
  return _ROLES[role], text


def _parse_focus(raw):
  if "focus" not in raw:
    raise ValueError("focus is missing; null states that nothing is meant")
  focus = raw["focus"]
  focuses = focus if isinstance(focus, list) else [focus]
  if len(focuses) > MAX_FOCUSES:
    raise ValueError(f"focus has {len(focuses):,} texts, the limit is {MAX_FOCUSES}")
  for item in focuses:
    if item is not None and not isinstance(item, str):
      raise ValueError(f"focus holds a {type(item).__name__}, want texts or null")
    if item is not None and not item.strip():
      raise ValueError("focus is an empty text; null states that nothing is meant")
    if item is not None and len(item) > MAX_FOCUS_CHARACTERS:
      raise ValueError(
        f"focus has {len(item):,} characters, the limit is {MAX_FOCUS_CHARACTERS:,}"
      )
  return tuple(focuses)


def _check_seg(turns, focuses):
  answers = [text for role, text in turns if role == "assistant"]
  count = sum(text.count(SEG_TOKEN) for text in answers)
  problems = []
  if count != len(focuses):
    problems.append(
      f"gpt turns hold {count} {SEG_TOKEN} for {len(focuses)} focus, want equal numbers"
    )
  for text in answers:
    pieces = text.split(OBJ_TOKEN)[1:]
    if any(SEG_TOKEN not in piece for piece in pieces):
      problems.append(f"an {OBJ_TOKEN} has no {SEG_TOKEN} after it in its turn")
  return problems


def _kind(mapping, key):
  return f"a {type(mapping[key]).__name__}" if key in mapping else "missing"
