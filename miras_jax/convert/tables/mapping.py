"""Published weight names <-> our parameter tree: tables of rules, strict at both ends.

A `Table` is one published naming. `plan` maps whole files by their shapes alone,
`convert` and `export` whole trees in memory.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from miras_jax.convert.tables.rules import FIELD, CompiledRule, Place, Rule
from miras_jax.errors import UserError

# -- tables ---------------------------------------------------------------------------


class Origin(NamedTuple):
  """How one published tensor is made: `rule.inverse(*[leaf of each place])`."""

  rule: Rule
  places: list[Place]


class Table:
  """One published naming.

  rules     every tensor that has a place in our tree
  prefixes  beginnings that files put before the names; the first one is written
  ignored   regexes of keys that are known and have no place (buffers, text towers)
  aliases   (regex, replacement) that turn another spelling into that of the rules
  """

  def __init__(self, rules, *, prefixes=("",), ignored=(), aliases=()):
    self.rules, self.prefixes = tuple(rules), tuple(prefixes)
    self.ignored, self.aliases = tuple(ignored), tuple(aliases)
    self._compiled = [CompiledRule(rule) for rule in self.rules]
    # The longest first: "" begins everything.
    self._longest = sorted(self.prefixes, key=len, reverse=True)

  def bare(self, key):
    """The key without its prefix, in the rules' spelling."""
    prefix = next((p for p in self._longest if key.startswith(p)), "")
    key = key[len(prefix) :]
    for pattern, replacement in self.aliases:
      key = re.sub(pattern, replacement, key)
    return key

  def ignores(self, key):
    return any(re.fullmatch(pattern, self.bare(key)) for pattern in self.ignored)

  def knows(self, key):
    """Whether the key is a name of this table, placed or ignored."""
    return self.ignores(key) or self._find(key) is not None

  def places(self, key):
    """[Place] that the published key fills; [] for an ignored one.

    Raises UserError for a key that no rule knows.
    """
    if self.ignores(key):
      return []
    return self.match(key)[1]

  def read(self, key, weight):
    """[(Place, our array)] of one published tensor (views; nothing is copied)."""
    if self.ignores(key):
      return []
    rule, places = self.match(key)
    arrays = rule.fn(weight)
    arrays = arrays if isinstance(rule.dst, tuple) else (arrays,)
    return list(zip(places, arrays, strict=True))

  def stacked(self, path):
    """Whether our `path` stacks layers. UserError when no rule has it."""
    found = {c.stacks(path) for c in self._compiled} - {None}
    if len(found) != 1:
      raise UserError(f"our {path!r} has no name in this format")
    return found.pop()

  def origins(self, shapes):
    """{published key: Origin} of a whole tree of ours, {path: shape}, in its order.

    Raises UserError for a path that has no published name, or lacks its companions.
    """
    out = {}
    for path, shape in shapes.items():
      stacked = self.stacked(path)
      layers = range(shape[0]) if stacked else (None,)
      for layer in layers:
        key, origin = self.origin(Place(path, layer))
        out[key] = origin
    for key, origin in out.items():
      absent = [str(p) for p in origin.places if p.path not in shapes]
      if absent:
        raise UserError(f"{key!r} also needs our {', '.join(absent)}")
    return out

  def match(self, key):
    """(rule, [Place]) of a key that is not ignored. UserError when no rule knows it."""
    hit = self._find(key)
    if hit is None:
      raise UserError(f"unknown key {key!r}{self._nearest(key)}")
    return hit

  def _find(self, key):
    bare = self.bare(key)
    hits = [(c, p) for c in self._compiled if (p := c.places(bare)) is not None]
    if len(hits) > 1:
      sources = [compiled.rule.src for compiled, _ in hits]
      raise ValueError(f"{key!r} matches {sources}, want one rule")
    return (hits[0][0].rule, hits[0][1]) if hits else None

  def _nearest(self, key):
    names = [re.sub(FIELD, "0", rule.src) for rule in self.rules]
    close = difflib.get_close_matches(self.bare(key), names, n=1)
    return f"; the nearest known is {self.prefixes[0] + close[0]!r}" if close else ""

  def origin(self, place):
    """(published key, Origin) of one of our places."""
    hits = [(c.rule, o) for c in self._compiled if (o := c.origin(place))]
    if len(hits) != 1:
      raise ValueError(f"our {place} has {len(hits)} published names, want one")
    rule, (key, places) = hits[0]
    return self.prefixes[0] + key, Origin(rule, places)


# -- plans ----------------------------------------------------------------------------


class Piece(NamedTuple):
  """Where a leaf, or one layer of it, comes from."""

  origin: Any  # whatever the caller passed: a file
  key: str
  rule: Rule
  part: int  # which of the arrays that `rule.fn` makes
  layer: int | None
  shape: tuple  # of our array

  def take(self, weight):
    """Our array of the published one."""
    made = self.rule.fn(weight)
    return made[self.part] if isinstance(self.rule.dst, tuple) else made


class Plan(NamedTuple):
  """`pieces`: {our path: [Piece], by layer}. `missing`: places nothing was found for.
  `ignored`: (origin, key) that are known and have no place."""

  pieces: dict
  missing: list
  ignored: list


def plan(sources: Iterable, expected: Mapping, *, grows: Mapping = None) -> Plan:
  """Plans a conversion by shapes alone.

  sources   (origin, key, shape, Table) of every published tensor
  expected  {our path: shape}
  grows     {our path: axis}: there the file may be shorter than expected

  Raises UserError for an unknown key, a shape that does not fit (naming both) and two
  tensors for one place; what is missing is returned.
  """
  pieces, ignored = {}, []
  for origin, key, shape, table in sources:
    if table.ignores(key):
      ignored.append((origin, key))
      continue
    rule, places = table.match(key)
    for part, (place, made) in enumerate(table.read(key, _of_shape(shape))):
      if place.path not in expected:
        raise UserError(f"{key!r} is our {place.path!r}, which this model lacks")
      piece = Piece(origin, key, rule, part, place.layer, made.shape)
      _check_shape(piece, place, shape, expected[place.path], grows or {})
      taken = pieces.setdefault(place.path, {})
      if place.layer in taken:
        raise UserError(
          f"{key!r} and {taken[place.layer].key!r} are both our {str(place)!r}"
        )
      taken[place.layer] = piece
  missing = [
    Place(path, layer)
    for path, shape in expected.items()
    for layer in _absent(pieces.get(path), shape)
  ]
  ordered = {
    path: [taken[i] for i in sorted(taken, key=lambda i: -1 if i is None else i)]
    for path, taken in pieces.items()
  }
  return Plan(ordered, missing, ignored)


def _absent(taken, shape):
  """Layers without a piece; [None] when the whole leaf has none."""
  if not taken:
    return [None]
  return [] if None in taken else [i for i in range(shape[0]) if i not in taken]


def _of_shape(shape):
  """An array of a shape that takes no memory."""
  return np.broadcast_to(np.zeros((), np.uint8), shape)


def _check_shape(piece, place, published, shape, grows):
  layer = place.layer
  if layer is not None and (not shape or layer >= shape[0]):
    depth = shape[0] if shape else 0
    raise UserError(f"{piece.key!r} is layer {layer} of a model of {depth} layers")
  want = tuple(shape if layer is None else shape[1:])
  if piece.shape == want:
    return
  axis = grows.get(place.path)
  if axis is not None and len(want) == len(piece.shape):
    shorter = [*piece.shape]
    shorter[axis] = want[axis]
    if tuple(shorter) == want and piece.shape[axis] < want[axis]:
      return
  raise UserError(
    f"{piece.key!r} has shape {tuple(published)}, which makes {piece.shape}; our"
    f" {str(place)!r} wants {want}"
  )


# -- whole trees in memory ------------------------------------------------------------


def shapes_of(params):
  """{path: shape} of a nested dict of arrays or ShapeDtypeStructs."""
  return {k: tuple(x.shape) for k, x in flatten_dict(params, sep="/").items()}


def convert(source, table, expected):
  """Published {key: array} -> our nested dict.

  `expected`: {path: shape}. Unknown keys, wrong shapes and missing leaves are
  UserErrors.
  """
  items = ((None, key, w.shape, table) for key, w in source.items())
  made = plan(items, expected)
  if made.missing:
    first = made.missing[0]
    more = f" and {len(made.missing) - 1} more" if len(made.missing) > 1 else ""
    raise UserError(f"no key for our {str(first)!r}{more}{_wanted(table, first)}")
  flat = {
    path: assemble(pieces, lambda piece: source[piece.key])
    for path, pieces in made.pieces.items()
  }
  return unflatten_dict(flat, sep="/")


def _wanted(table, place):
  """ "; looked for 'key'" where this table can say so."""
  if place.layer is None and table.stacked(place.path):
    place = place._replace(layer=0)
  return f"; looked for {table.origin(place)[0]!r}"


def assemble(pieces, load):
  """One of our leaves from its pieces; `load(piece)` gives the published array."""
  if pieces[0].layer is None:
    return np.ascontiguousarray(pieces[0].take(load(pieces[0])))
  return np.stack([piece.take(load(piece)) for piece in pieces])


def export(params, table):
  """Our nested dict -> published {key: array}, the inverse of `convert`."""
  flat = flatten_dict(params, sep="/")
  origins = table.origins({k: tuple(x.shape) for k, x in flat.items()})
  return {
    key: published(origin, functools.partial(_leaf_of, flat))
    for key, origin in origins.items()
  }


def published(origin, leaf):
  """The published array of an Origin; `leaf(place)` gives our array at a place."""
  return np.ascontiguousarray(origin.rule.inverse(*map(leaf, origin.places)))


def _leaf_of(flat, place):
  array = np.asarray(flat[place.path])
  return array if place.layer is None else array[place.layer]
