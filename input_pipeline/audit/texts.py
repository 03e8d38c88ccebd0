"""What a conversation says of each of its targets, and control tokens in its texts."""

import re
from collections.abc import Iterator

from input_pipeline.records import OBJ_TOKEN, SEG_TOKEN
from input_pipeline.words import Words

_SENTENCE = re.compile(r"[.!?;\n。！？；]+")
_MARKS = re.compile(
  r"\[\s*/?\s*(?:SEG|OBJ|INST|REJ)\s*\]|</?\s*(?:s|p|unk|image|SEG|OBJ|im_\w+)\s*/?>"
  r"|<\|[^|<>]{1,40}\|>|<</?SYS>>|\b(?:USER|ASSISTANT):",
  re.IGNORECASE,
)
_NEEDED = (SEG_TOKEN, OBJ_TOKEN)
_MOST_WORDS = 8  # of a text that names the colour of one thing


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


def sentences(turns, count) -> list[str]:
  """For each [SEG] its sentence of the answer, "" where that holds several [SEG]s.

  `[OBJ]name[SEG]` leaves the name in the sentence.
  """
  found = []
  for role, text in turns:
    for sentence in _SENTENCE.split(text) if role == "assistant" else ():
      segs = sentence.count(SEG_TOKEN)
      plain = re.sub(r"\[(?:SEG|OBJ)\]", " ", sentence)
      found += [" ".join(plain.split()) if segs == 1 else ""] * segs
  return found if len(found) == count else [""] * count


def side_of(text: str, words: Words) -> str:
  """ "left" or "right" where a text says that its thing is there, else "".

  Careful: "left of the cup", "second from the left" and "left shoe" say it of something
  else, "not on the left" the opposite.
  """
  left, right = words.left.findall(text), words.right.findall(text)
  if bool(left) == bool(right) or len(left) + len(right) != 1:
    return ""
  if words.sided.search(text) or words.relative.search(text):
    return ""
  return "left" if left else "right"


def without_side(text: str, words: Words) -> str:
  """A name without its side: what it shares with its sibling on the other side."""
  text = words.left.sub(" ", words.right.sub(" ", text))
  return " ".join(text.casefold().split())


def colour_of(text: str, words: Words) -> str:
  """The one colour that a short text gives to its thing, else ""."""
  colours = words.colours_of(text)
  careful = words.relative.search(text) or words.coloured.search(text)
  if len(colours) != 1 or careful or len(text.split()) > _MOST_WORDS:
    return ""
  return colours[0]
