"""What a conversation says of each of its targets, and control tokens in its texts."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from input_pipeline.records import OBJ_TOKEN, SEG_TOKEN
from input_pipeline.words import Words

_SENTENCE = re.compile(r"[.!?;\n。！？；]+")
_MARKS = re.compile(
  r"\[\s*/?\s*(?:SEG|OBJ|INST|REJ)\s*\]|</?\s*(?:s|p|unk|image|SEG|OBJ|im_\w+)\s*/?>"
  r"|<\|[^|<>]{1,40}\|>|<</?SYS>>|\b(?:USER|ASSISTANT):",
  re.IGNORECASE,
)
_QUOTED = re.compile("[\"'‘’“”«»„]")
_NEEDED = (SEG_TOKEN, OBJ_TOKEN)
_MOST_WORDS = 8  # of a text that names the side or the colour of one thing


def control_tokens(turns, names) -> Iterator[str]:
  """What spells a control token where none belongs, one reason each text.

  A reader keeps it as text, but a model trained on it learns to write it.
  """
  for number, (role, text) in enumerate(turns):
    found = {mark[0] for mark in _MARKS.finditer(text)}
    found -= set(_NEEDED) if role == "assistant" else set()
    found -= {m for m in found if m.upper().endswith(":") and not m.isupper()}
    if found:
      yield f"turn {number}, from the {role}, spells {_listed(found)}"
  for number, name in enumerate(names):
    if found := {mark[0] for mark in _MARKS.finditer(name)}:
      yield f"the name of mask {number} spells {_listed(found)}"


def _listed(found):
  return ", ".join(map(repr, sorted(found)))


class Said(NamedTuple):
  """Texts about one target: the sentence of the answer with its [SEG], and the question
  of that round; "" where they are about several."""

  sentence: str = ""
  question: str = ""


def said_of_targets(turns, count) -> list[Said]:
  """One Said for each [SEG] of the answers; `[OBJ]name[SEG]` leaves its name."""
  found, question = [], ""
  for role, text in turns:
    if role != "assistant":
      question = text
      continue
    asked = question if text.count(SEG_TOKEN) == 1 else ""
    for sentence in _SENTENCE.split(text):
      segs = sentence.count(SEG_TOKEN)
      plain = " ".join(re.sub(r"\[(?:SEG|OBJ)\]", " ", sentence).split())
      found += [Said(plain if segs == 1 else "", asked)] * segs
  return found if len(found) == count else [Said()] * count


def side_of(name: str, words: Words) -> str:
  """ "left" or "right" where a name says that its thing is there, else "".

  Careful: "left of the cup", "second from the left" and "left shoe" say it of something
  else, and "leftmost" compares.
  """
  left, right = words.left.findall(name), words.right.findall(name)
  careful = words.sided.search(name) or words.relative.search(name)
  if len(left) + len(right) != 1 or careful or len(name.split()) > _MOST_WORDS:
    return ""
  return "left" if left else "right"


def stated_side(text: str, words: Words) -> str:
  """ "left" or "right" where a sentence or question places its thing there, else "".

  Only where it states a place in the whole picture, and one place alone.
  """
  places = [
    (side, match)
    for side, pattern in (("left", words.on_left), ("right", words.on_right))
    for match in pattern.finditer(text)
  ]
  if len(places) != 1 or words.sided.search(text):
    return ""
  side, match = places[0]
  after = " ".join(text[match.end() :].split()[:4])
  if words.relative.search(text[: match.start()]):
    return ""
  if words.relative.search(after) and not words.picture.search(after):
    return ""
  return side


def without_side(text: str, words: Words) -> str:
  """A name without its side: what it shares with its sibling on the other side."""
  text = words.left.sub(" ", words.right.sub(" ", text))
  return " ".join(text.casefold().split())


def colour_of(text: str, words: Words) -> str:
  """The one colour that a short text gives to its thing, else ""."""
  colours = words.colours_of(text)
  careful = words.relative.search(text) or words.coloured.search(text)
  careful = careful or _QUOTED.search(text)
  if len(colours) != 1 or careful or len(text.split()) > _MOST_WORDS:
    return ""
  return colours[0]
