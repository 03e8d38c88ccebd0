"""A conversation of MRSeg: tags become words, [SEG] and pointers to masks.

    human  [IMAGE256:<path>] Segment a person.
    gpt    [MASK-DECODE:<path>|refcoco|488615].
    human  [MASK-ENCODE:<path>|refcoco|488615][BOX-ENCODE:...] Segment the cup that
           instance 1 holds.
    gpt    [MASK-DECODE:relational:488615:484448:<path>:refcoco].

A tag that points to a mask of an earlier round becomes "the object of round 1"; the tag
in an answer becomes [SEG].
"""

import re
from typing import NamedTuple

from input_pipeline.builders import fields, mrseg_masks, wording
from input_pipeline.records import SEG_TOKEN

_TAG = re.compile(r"\[(IMAGE256|MASK-ENCODE|BOX-ENCODE|MASK-DECODE):([^\]]*)\]")
_INSTANCE = re.compile(r"\binstance (\d{1,3})\b", re.IGNORECASE)
MAX_ROUNDS = 100


class Pointer(NamedTuple):
  """A mask by its data set and number, and the picture that it lies on."""

  path: str
  dataset: str
  number: str

  @property
  def key(self):
    """Equal for equal masks; class maps have one a picture and class."""
    if self.dataset in mrseg_masks.BY_PICTURE:
      return f"{self.dataset}|{self.number}|{self.path}"
    return f"{self.dataset}|{self.number}"


def parse(raw, key: str) -> dict:
  """An item of a list -> its turns as text, its pointers in order, its picture's path.

  Raises ValueError with the reason why it cannot be used.
  """
  turns = fields.listed(fields.mapping(raw, "the entry"), "conversations")
  if not turns or len(turns) % 2 or len(turns) > 2 * MAX_ROUNDS:
    raise ValueError(f"has {len(turns)} turns, want pairs up to {2 * MAX_ROUNDS}")
  texts, pointers, paths = [], [], set()
  for k in range(0, len(turns), 2):
    asked = _value(turns[k], "human", k)
    answered = _value(turns[k + 1], "gpt", k + 1)
    answer, pointer, references = _answer(answered, k + 1)
    paths.update((repaired(pointer.path), *_pictures(asked)))
    rounds = _rounds(asked, references, pointers, k)
    texts += [("user", _question(asked, rounds, f"{key}/{k}")), ("assistant", answer)]
    pointers.append(pointer)
  if len(paths) > 1:
    raise ValueError(f"is about several pictures: {', '.join(sorted(paths))[:200]}")
  return {"turns": texts, "pointers": pointers, "path": paths.pop()}


def repaired(path: str) -> str:
  """A path of the lists as the published loader repairs it."""
  path = path.removeprefix("./").replace("val2014", "train2014").replace("new_", "")
  if "VG_100K" in path and not path.startswith("vg/"):
    path = f"vg/{path}"
  return path


def _value(turn, speaker, k):
  turn = fields.mapping(turn, f"turn {k}")
  if turn.get("from") != speaker:
    raise ValueError(f"turn {k} is from {str(turn.get('from'))[:20]!r}, want {speaker}")
  return fields.text(turn, "value")


def _answer(text, k):
  """(text with [SEG], Pointer, numbers of masks it refers to) of an answer."""
  tags = _TAG.findall(text)
  if [kind for kind, _ in tags] != ["MASK-DECODE"]:
    named = ", ".join(kind for kind, _ in tags) or "none"
    raise ValueError(f"turn {k}: has the tags {named}, want one MASK-DECODE")
  pointer, references = _pointer(tags[0][1], k)
  fields.answer(text, f"turn {k}")
  return _TAG.sub(SEG_TOKEN, text), pointer, references


def _pointer(content, k):
  """(Pointer, numbers of the masks it refers to) of what a MASK tag holds.

  `path|set|number`, or `task:reference[:second reference]:number:path:set`.
  """
  if content.count("|") == 2:
    return Pointer(*_pointed(*content.split("|"))), []
  parts = content.split(":")
  if len(parts) not in (5, 6):
    raise ValueError(f"turn {k}: cannot read the tag {content[:80]!r}")
  *references, number, path, dataset = parts[1:]
  references = [r for r in references if r not in ("none", "", "'")]
  return Pointer(*_pointed(path, dataset, number)), references


def _pointed(path, dataset, number):
  return repaired(path), dataset, "" if number in ("none", "'") else number


def _pictures(text):
  return {repaired(c) for kind, c in _TAG.findall(text) if kind == "IMAGE256"}


def _rounds(asked, references, earlier, k):
  """Numbers from 1 of the rounds whose masks a question refers to, in order."""
  wanted = []
  for kind, content in _TAG.findall(asked):
    if kind == "MASK-DECODE":
      raise ValueError(f"turn {k}: a question holds MASK-DECODE")
    if kind == "MASK-ENCODE":
      wanted.append(_pointer(content, k)[0].number)
  found = []
  for number in dict.fromkeys((*wanted, *references)):
    at = [i for i, pointer in enumerate(earlier) if pointer.number == number]
    if not at:
      raise ValueError(f"turn {k}: refers to mask {number!r} of no earlier round")
    found.append(at[-1] + 1)
  return found


def _question(text, rounds, key):
  """A question without tags, which names the rounds that the tags pointed to."""
  said = set()

  def name(match):
    number = int(match[1])
    if number not in rounds:
      return match[0]
    said.add(number)
    return f"the object of round {number}"

  text = " ".join(_INSTANCE.sub(name, _TAG.sub(" ", text)).split())
  text = fields.said(text, f"the question {key.rpartition('/')[2]}")
  if rest := [f"round {number}" for number in rounds if number not in said]:
    return wording.choose("rounds", key, rounds=" and ".join(rest), question=text)
  return text
