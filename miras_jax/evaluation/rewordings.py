"""Conversations that say something untrue, by words of `rewordings.json`.

A rewording is a function of one text. What it does to the turns it is to do to the
answers as well, where these are given.
"""

import functools
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Sequence

from input_pipeline import words

FILE = "rewordings.json"
_UNSPACED = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]")  # Chinese and Japanese
_LEAST = 3  # letters of a noun whose plural's s is taken off


@functools.cache
def _data() -> dict:
  return json.loads(importlib.resources.files(__package__).joinpath(FILE).read_bytes())


@functools.cache
def _any_of(forms: tuple[str, ...]) -> re.Pattern:
  """Finds one of the words, the longest that fits."""
  longest_first = sorted(set(forms), key=len, reverse=True)
  patterns = map(words.word_pattern, longest_first)
  return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)


def attribute_lie(questions: Sequence[str], names: Sequence[str]) -> Callable | None:
  """A rewording after which the questions name an attribute that the target lacks.

  One colour, side, height, size or pattern is swapped for another. None where no kind
  of attribute is named by exactly one of its values, or where the conversation denies
  something, so that it is not sure what is untrue. names: of the targets; an attribute
  that is in one of them goes first.
  """
  said, named = "\n".join(questions), "\n".join(names)
  doubts = *_data()["negations"], *_data()["not_attributes"]
  if _any_of(doubts).search(said):
    return None
  found = []
  for groups_of in _data()["attributes"].values():
    values = [
      (language, place)
      for language, groups in groups_of.items()
      for place, forms in enumerate(groups)
      if _any_of(tuple(forms)).search(said)
    ]
    if len(values) == 1:
      ((language, place),) = values
      found.append((groups_of[language], place))
  found.sort(key=lambda x: not _any_of(tuple(x[0][x[1]])).search(named))
  for groups, place in found:
    if other := _another_value(groups, place, named):
      return functools.partial(_swap, tuple(groups[place]), other)
  return None


def _another_value(groups, place, named):
  """The forms of the next value that is not what the target is; None without one."""
  alike = [same for same in _data()["same"] if groups[place][0] in same]
  alike = {word for same in alike for word in same}
  for step in range(1, len(groups)):
    forms = groups[(place + step) % len(groups)]
    if forms[0] not in alike and not _any_of(tuple(forms)).search(named):
      return tuple(forms)
  return None


def _swap(forms, others, text):
  """The text with each form replaced by the one in its place among the others."""

  def other(match):
    place = forms.index(match[0].lower())
    return _like(match[0], others[place] if place < len(others) else others[0])

  return _any_of(forms).sub(other, text)


def _like(old, new):
  return new[0].upper() + new[1:] if old[0].isupper() else new


def unheard_of(texts: Iterable[str]) -> dict[bool, list]:
  """{whether the language has no spaces: things that none of the texts names}."""
  everything = "\n".join(texts)
  pairs = {False: _data()["absent"], True: [[w, w] for w in _data()["absent_unspaced"]]}
  return {
    unspaced: [pair for pair in of if not _any_of(tuple(pair)).search(everything)]
    for unspaced, of in pairs.items()
  }


def absent_target(questions, names, things, number) -> Callable | None:
  """A rewording after which the questions ask for a thing that is not in the picture.

  The noun of every target, the last word of its name, becomes another thing: one of
  `things` (see `unheard_of`), by `number`. None where a noun is not in the questions.
  names: of the targets that are not empty.
  """
  said, nouns = "\n".join(questions), [_noun(name) for name in names]
  if not nouns or not all(nouns):
    return None
  if not all(_any_of(_numbers(noun)).search(said) for noun in nouns):
    return None
  choice = things[bool(_UNSPACED.search(said))]
  if not choice:
    return None
  one, several = choice[number % len(choice)]
  forms = tuple(form for noun in nouns for form in _numbers(noun))
  return functools.partial(_replace_noun, forms, one, several)


def _noun(name):
  """What a name is a name of: its last word, all of it where there are no spaces."""
  if _UNSPACED.search(name):
    return name.strip()
  found = re.findall(r"\w+", name)
  return found[-1].lower() if found else ""


def _numbers(noun):
  """A noun as one and as several, as far as an s makes the difference."""
  stem = noun[:-1] if noun.endswith("s") and len(noun) > _LEAST else noun
  return (stem, noun, stem + "s", stem + "es")


def _replace_noun(forms, one, several, text):
  def other(match):
    ends = match[0].lower()
    many = ends.endswith("s") and not ends.endswith(("ss", "us"))
    return _like(match[0], several if many else one)

  return _any_of(forms).sub(other, text)
