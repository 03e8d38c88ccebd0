"""Words that tell a side, a place or a colour, from a data file anyone can replace.

What augmentation must not make untrue (`augment`) and what a mask may contradict
(`audit`) are found by them. `words.json` says how a word is written.
"""

import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Mapping, Sequence

from input_pipeline import safe_files
from miras_jax.errors import UserError
from miras_jax.storage import copies

DEFAULT = "words.json"
LISTS = (
  "left", "right", "mirrored", "placed", "on_left", "on_right", "picture", "relative",
  "sided", "lit", "coloured",
)  # fmt: skip
COLOURS = (
  "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black",
  "white",
)  # fmt: skip
_MOST_BYTES = 1 << 20
_MOST_LETTERS = 64  # of a word
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]")  # Chinese and Japanese


@dataclasses.dataclass(frozen=True)
class Words:
  """A pattern for each list of words, and one for each colour.

  left, right: sides. mirrored: what else a mirrored picture makes untrue. placed: what
  a part of the picture makes untrue. on_left, on_right: what states a place in the
  whole picture, unless a relative word and none of `picture` follows. relative: what
  makes a side or a colour one of something else ("left of the cup"). sided: what has
  sides of its own ("left shoe"). lit, coloured: what light and hue make untrue; names
  of colours are in `colours`.
  """

  left: re.Pattern
  right: re.Pattern
  mirrored: re.Pattern
  placed: re.Pattern
  on_left: re.Pattern
  on_right: re.Pattern
  picture: re.Pattern
  relative: re.Pattern
  sided: re.Pattern
  lit: re.Pattern
  coloured: re.Pattern
  colours: Mapping[str, re.Pattern]

  def tells_side(self, text: str) -> bool:
    """Whether a mirrored picture may make the text untrue."""
    patterns = (self.left, self.right, self.mirrored)
    return any(pattern.search(text) for pattern in patterns)

  def tells_place(self, text: str) -> bool:
    """Whether the text may be untrue of a part of the picture: place, size, number."""
    patterns = (self.left, self.right, self.placed)
    return any(pattern.search(text) for pattern in patterns)

  def tells_light(self, text: str) -> bool:
    """Whether a brighter or darker picture may make the text untrue."""
    return bool(self.lit.search(text))

  def tells_colour(self, text: str) -> bool:
    """Whether other colours may make the text untrue."""
    patterns = (self.coloured, *self.colours.values())
    return any(pattern.search(text) for pattern in patterns)

  def colours_of(self, text: str) -> list[str]:
    """The colours that the text names, each once."""
    return [name for name, pattern in self.colours.items() if pattern.search(text)]


@functools.cache
def load(path: str = "") -> Words:
  """The words of a file; "": those of the package. UserError for an unfit file."""
  if not path:
    data = importlib.resources.files("input_pipeline").joinpath(DEFAULT).read_bytes()
    return _parse(data, DEFAULT)
  try:
    return _parse(safe_files.read_bytes(copies.fetch(path), _MOST_BYTES), path)
  except FileNotFoundError:
    raise UserError(f"{path}: no such file of words") from None
  except ValueError as error:
    raise UserError(f"{path}: {error}") from None


def _parse(data, path):
  document, _ = safe_files.parse_json(data)
  if not isinstance(document, dict) or not isinstance(document.get("colours"), dict):
    raise UserError(f"{path}: want an object with {', '.join(LISTS)} and colours")
  unknown = sorted(document.keys() - {*LISTS, "colours", "about"})
  unknown += sorted(document["colours"].keys() - set(COLOURS))
  if unknown:
    raise UserError(
      f"{path}: unknown list {unknown[0]!r}; there are {', '.join(LISTS)}, and of"
      f" colours {', '.join(COLOURS)}"
    )
  lists = {name: _pattern(document.get(name, []), path, name) for name in LISTS}
  colours = document["colours"]
  found = {name: _pattern(colours.get(name, []), path, name) for name in COLOURS}
  return Words(**lists, colours=found)


def _pattern(words: Sequence[str], path, name) -> re.Pattern:
  """One pattern for all words; an empty list matches nothing."""
  fine = isinstance(words, list) and all(
    isinstance(word, str) and 0 < len(word.strip("* ")) <= _MOST_LETTERS
    for word in words
  )
  if not fine:
    raise UserError(
      f"{path}: {name}: want a list of words of 1 to {_MOST_LETTERS} characters"
    )
  return re.compile("|".join(map(word_pattern, words)) or r"(?!)", re.IGNORECASE)


def word_pattern(word: str) -> str:
  """A word as a pattern: whole, but with any ending where a star stands for it."""
  word = word.strip()
  text = re.escape(word.rstrip("*")).replace(r"\ ", r"\s+")
  if _UNSPACED.search(word):
    return text
  begin = r"(?<!\w)" if word[0].isalnum() else ""
  end = r"\w*" if word.endswith("*") else r"(?!\w)" if word[-1].isalnum() else ""
  return f"{begin}{text}{end}"
