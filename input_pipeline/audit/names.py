"""The names of all masks of one picture: doubles, parts of each other, sides."""

from collections.abc import Iterator
from typing import NamedTuple

from input_pipeline.audit import targets
from input_pipeline.audit.targets import Extent

_MOST_WORDS = 12  # of a name that is looked for in others


class Named(NamedTuple):
  """A mask with a name, as plain values.

  mask: digest of its pixels. side, base: what its name or sentence tells of its side,
  and its name without one. where: Extent as a list, None for an empty mask.
  """

  source: int
  record: int
  target: int
  name: str
  mask: str
  side: str
  base: str
  where: list | None


class Fault(NamedTuple):
  """kind: of findings.KINDS."""

  kind: str
  mask: Named
  reason: str
  weight: float = 0.0


def faults(masks: list[Named]) -> Iterator[Fault]:
  """What is wrong with the masks of one picture; each once, at its first record."""
  first = {}  # (name, mask) -> Named
  for mask in masks:
    first.setdefault((_normal(mask.name), mask.mask), mask)
  different = list(first.values())
  yield from _doubles(different)
  yield from _contained(different)
  yield from _sides(different)


def _normal(name):
  return " ".join(name.casefold().split())


def _by(masks, key):
  groups = {}
  for mask in masks:
    groups.setdefault(key(mask), []).append(mask)
  return groups


def _doubles(masks):
  for group in _by(masks, lambda mask: _normal(mask.name)).values():
    for mask in group[1:]:
      text = f"{mask.name!r} has another mask in record {group[0].record}"
      yield Fault("ambiguous_name", mask, text, len(group))


def _contained(masks):
  """Names that stand inside another one as whole words, with another mask."""
  by_name = _by(masks, lambda mask: _normal(mask.name))
  for name, (mask, *_) in by_name.items():
    words = name.split()
    for length in range(1, min(len(words), _MOST_WORDS + 1)):
      for start in range(len(words) - length + 1):
        inner = by_name.get(" ".join(words[start : start + length]))
        if inner and inner[0].mask != mask.mask and length < len(words):
          text = f"{mask.name!r} contains {inner[0].name!r}, another mask (record"
          yield Fault("contained_name", mask, f"{text} {inner[0].record})", length)


def _sides(masks):
  """Sides against siblings where there are any, against the picture where not."""
  sided = [mask for mask in masks if mask.side and mask.where]
  for group in _by(sided, lambda mask: mask.base).values():
    sides = _by(group, lambda mask: mask.side)
    if len(sides) == 1:
      yield from _alone(group)
      continue
    left, right = sides["left"][0], sides["right"][0]
    if targets.is_exchanged(Extent(*left.where), Extent(*right.where)):
      text = (
        f"{left.name!r} lies right of {right.name!r} of record {right.record}: their"
        f" centres are at {left.where[1]:.0%} and {right.where[1]:.0%} of the width"
      )
      yield Fault("wrong_side", left, text, left.where[1] - right.where[1])


def _alone(masks):
  for mask in masks:
    where = Extent(*mask.where)
    if targets.is_on_other_side(mask.side, where):
      text = (
        f"{mask.name!r} is said to be {mask.side}; its mask lies between"
        f" {where.first:.0%} and {where.last:.0%} of the width, its centre at"
        f" {where.centre:.0%}"
      )
      yield Fault("wrong_side", mask, text, abs(where.centre - 0.5))
