"""`config.mixture`: names with weights -> the data sets that are drawn, in proportion.

A name is a group or a preset of mixtures.json, or a data set: one of `config.sources`,
{name: folder or SCHEME:PLACE}, else the folder of that name below `data.dir`. Inside a
group every data set has the same share. `open_mixture` opens them.
"""

import difflib
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from miras_jax.errors import UserError

TABLE = json.loads(pathlib.Path(__file__).with_name("mixtures.json").read_text())
GROUPS: Mapping[str, list[str]] = TABLE["groups"]
PRESETS: Mapping[str, dict[str, float]] = TABLE["presets"]
LEFT_OUT = "none"


class Part(NamedTuple):
  """A data set of a mixture: the entry it counts as, its name, its weight."""

  entry: str
  name: str
  weight: float


def parse(text: str) -> dict[str, float] | None:
  """ "multiturn:10,vqa:2", or a preset's name -> {name: weight}; of "none" {}.

  None where the text is no mixture. UserError for a name that is none or comes twice.
  """
  if text == "none":
    return {}
  if text in PRESETS:
    return dict(PRESETS[text])
  pairs = [item.rpartition(":") for item in text.split(",") if item.strip()]
  try:
    named = [(name.strip(), float(weight)) for name, _, weight in pairs]
  except ValueError:
    return None
  for k, (name, _) in enumerate(named):
    _check_name("mixture", name)
    if name in dict(named[:k]):
      raise UserError(f"mixture: {name} is named twice; give it one weight")
  return dict(named)


def check(mixture: Mapping, sources: Mapping) -> None:
  """UserError for a name or weight that no mixture can have."""
  for name, weight in mixture.items():
    _check_name("mixture", name)
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not 0 < weight < math.inf:
      raise UserError(
        f"mixture.{name}={weight!r}: want a weight, a positive number; leave out what"
        " is not to be drawn"
      )
  for name, place in sources.items():
    _check_name("sources", name)
    if not isinstance(place, str) or not place:
      raise UserError(
        f"sources.{name}={place!r}: want a folder, SCHEME:PLACE or {LEFT_OUT!r}"
      )
    if name in GROUPS or name in PRESETS:
      raise UserError(
        f"sources.{name}: {name} is a group of data sets; name one of"
        f" {', '.join(GROUPS.get(name) or PRESETS[name])}, or take a name of your own"
      )


def _check_name(field, name):
  if not re.fullmatch(r"[A-Za-z0-9_+-]+", str(name)):
    raise UserError(f"{field}: {name!r} is no name; want letters, digits, _, + and -")


def parts(mixture: Mapping[str, float], sources: Mapping[str, str]) -> list[Part]:
  """The data sets of a mixture, sorted by name.

  One whose place in `sources` is "none" is left out: the others of its group share the
  weight. Raises UserError for a data set that is named twice and for an empty group.
  """
  found = {}
  for entry, weight in sorted(mixture.items()):
    for name, share in _members(entry, sources).items():
      if name in found:
        raise UserError(
          f"mixture: {name} is drawn for {found[name].entry} and for {entry}; name"
          " every data set once"
        )
      found[name] = Part(entry, name, weight * share)
  return [found[name] for name in sorted(found)]


def _members(entry, sources):
  """{data set: its share of the entry}."""
  if entry in PRESETS:
    inner, total = PRESETS[entry], sum(PRESETS[entry].values())
    return {
      name: share * weight / total
      for group, weight in inner.items()
      for name, share in _members(group, sources).items()
    }
  names = [n for n in GROUPS.get(entry, [entry]) if sources.get(n) != LEFT_OUT]
  if not names:
    raise UserError(f"mixture.{entry}: every data set of it is left out; leave it out")
  return {name: 1 / len(names) for name in names}


def known(sources: Mapping[str, str]) -> list[str]:
  """Every name that a mixture may have wherever the data are."""
  from input_pipeline.builders import registry  # reads files with more libraries

  members = [name for group in GROUPS.values() for name in group]
  presets = [name for preset in PRESETS.values() for name in preset]
  names = [*GROUPS, *PRESETS, *presets, *members, *registry.BUILDERS, *sources]
  return list(dict.fromkeys(names))


def unknown(name: str, sources: Mapping[str, str], folders: list[str]) -> UserError:
  """The error for a name that is neither known nor one of `folders` below data.dir."""
  names = known(sources)
  close = difflib.get_close_matches(name, [*folders, *names], n=1)
  hint = f"did you mean {close[0]}? " if close else ""
  here = ", ".join(sorted(folders)) or "none"
  return UserError(
    f"mixture.{name}: no such data set; {hint}there are {', '.join(names)}, and every"
    f" folder below data.dir ({here})"
  )
