"""Our parameter tree without its numbers: shapes now, one leaf or layer when asked.

`infos` {path: TensorInfo}, stacked leaves with their layers in front; `read(path,
layer)` gives a numpy array, `arrays(path)` the whole leaf in pieces. Trees are made of
published sources (here), a converted folder or a training folder (`store`).
"""

import functools
import re
from typing import NamedTuple

import numpy as np

from miras_jax.convert import overlay
from miras_jax.convert.files.stream import Target, row_blocks
from miras_jax.convert.files.tensors import TensorInfo
from miras_jax.convert.tables import mapping
from miras_jax.convert.tables.rules import Place
from miras_jax.errors import UserError
from miras_jax.logs import log

# Leaves with an entry for each token, and the axis of the tokens.
VOCABULARY = {"llm/embed/embedding": 0, "llm/lm_head/kernel": 1}
# Parts that a run may start from random values, if `--new` says so.
NEW_PARTS = ("projector", "mining", "seg_prompt")
STACKED = re.compile(r"llm/layers/")
_HOLDERS = {
  "clip": "CLIP ViT-L/14-336",
  "convnext": "OpenCLIP's ConvNeXt (or --set=convnext=none)",
  "llm": "Llama or Vicuna",
  "sam": "SAM",
}


class Tree:
  """A tree of leaves that are read later."""

  infos: dict

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def read(self, path, layer=None):
    raise NotImplementedError

  def close(self):
    """Closes what it reads from."""

  def arrays(self, path):
    """The leaf in its own order: one array a layer, or as it is."""
    if STACKED.match(path):
      for layer in range(self.infos[path].shape[0]):
        yield self.read(path, layer)
    else:
      yield self.read(path)

  def targets(self, paths=None):
    """[Target] of our own format."""
    return [
      Target(path, *self.infos[path], functools.partial(self.arrays, path))
      for path in sorted(paths or self.infos)
    ]


class Vocabulary(NamedTuple):
  """Rows of the embedding: `size` in all; from `first_new` on the mean of the rest."""

  size: int
  first_new: int


class SourceTree(Tree):
  """Published sources in our names, checked from both ends.

  sources     [Source]
  shapes      {path: shape} that the model wants
  vocabulary  Vocabulary, or None to keep the embedding as it is
  random      {path: float32 array} of its `paths`, which no source has to have
  """

  def __init__(self, sources, shapes, *, vocabulary=None, random=None):
    self.vocabulary, self.random = vocabulary, random
    self._new = set(random.paths) if random else set()
    wanted = {k: s for k, s in shapes.items() if k not in self._new}
    self.plan = _plan(sources, wanted)
    _check_whole(self.plan, wanted)
    self.infos = {k: TensorInfo(shapes[k], np.dtype(np.float32)) for k in self._new}
    self._pieces = {}
    for path, pieces in self.plan.pieces.items():
      dtype = _dtype(path, pieces)
      self.infos[path] = TensorInfo(shapes[path], dtype)
      self._pieces[path] = {piece.layer: piece for piece in pieces}

  def read(self, path, layer=None):
    if path in self._new:
      return self.random[path] if layer is None else self.random[path][layer]
    piece = self._pieces[path].get(layer)
    if piece is None:
      return np.stack([self.read(path, i) for i in range(self.infos[path].shape[0])])
    array = piece.take(piece.origin.read(piece.key))
    return array.astype(self.infos[path].dtype, copy=False)

  def arrays(self, path):
    if path not in VOCABULARY or self.vocabulary is None:
      yield from super().arrays(path)
      return
    array, axis = self.read(path), VOCABULARY[path]
    old = array[: self.vocabulary.first_new] if axis == 0 else array[
      :, : self.vocabulary.first_new
    ]  # fmt: skip
    count = self.infos[path].shape[axis] - old.shape[axis]
    mean = old.mean(axis=axis, keepdims=True, dtype=np.float32).astype(old.dtype)
    if axis == 0:
      yield old
      yield np.repeat(mean, count, axis=0)
      return
    done = 0
    for block in row_blocks(old):
      column = mean[done : done + len(block)]
      done += len(block)
      yield np.concatenate([block, np.repeat(column, count, axis=1)], axis=1)


class MergedTree(Tree):
  """A tree with its adapters in the kernels: W + alpha / rank * A B, in float32."""

  def __init__(self, tree, *, alpha):
    self.tree, self.alpha = tree, alpha
    lora = re.compile(r"(.*)/lora_[ab]$")
    self._adapted = {m[1] + "/kernel" for p in tree.infos if (m := lora.match(p))}
    self.infos = {p: i for p, i in tree.infos.items() if not lora.match(p)}

  def read(self, path, layer=None):
    kernel = self.tree.read(path, layer)
    if path not in self._adapted:
      return kernel
    stem = path.removesuffix("kernel")
    a, b = (self.tree.read(f"{stem}lora_{x}", layer).astype(np.float32) for x in "ab")
    delta = a @ b
    delta *= self.alpha / a.shape[-1]
    delta += kernel
    return delta.astype(kernel.dtype)

  def arrays(self, path):
    if path in self._adapted:
      yield from super().arrays(path)
    else:
      yield from self.tree.arrays(path)


class CastTree(Tree):
  """A tree in another dtype."""

  def __init__(self, tree, dtype):
    self.tree = tree
    dtype = np.dtype(dtype)
    self.infos = {p: TensorInfo(i.shape, dtype) for p, i in tree.infos.items()}

  def read(self, path, layer=None):
    return self.tree.read(path, layer).astype(self.infos[path].dtype, copy=False)

  def arrays(self, path):
    for array in self.tree.arrays(path):
      for block in row_blocks(array):
        yield block.astype(self.infos[path].dtype, copy=False)


def published_targets(tree, table, paths):
  """[Target] of published names for some paths of a tree."""
  shapes = {path: tree.infos[path].shape for path in paths}
  return [
    _published(tree, key, origin) for key, origin in table.origins(shapes).items()
  ]


def _published(tree, key, origin):
  empty = [empty_at(tree.infos[place.path].shape, place) for place in origin.places]
  dtype = tree.infos[origin.places[0].path].dtype

  def arrays():
    yield origin.rule.inverse(*(tree.read(*place) for place in origin.places))

  return Target(key, origin.rule.inverse(*empty).shape, dtype, arrays)


def empty_at(shape, place):
  """An array of the shape of a place that takes no memory."""
  shape = shape if place.layer is None else shape[1:]
  return np.broadcast_to(np.zeros((), np.uint8), shape)


# -- planning -------------------------------------------------------------------------


def _plan(sources, shapes):
  """`mapping.plan` whose errors name the file; what lies over a base replaces it."""
  where, over = [], overlay.replaced(sources)

  def items():
    for source in sources:
      for item in source.items():
        where[:] = [source.file_of(item[1])]
        if source.overlay or not _is_replaced(source, item[1], over):
          yield item

  grows = {k: axis for k, axis in VOCABULARY.items() if k in shapes}
  try:
    return mapping.plan(items(), shapes, grows=grows)
  except UserError as error:
    raise UserError(f"{where[0]}: {error}") from None


def _is_replaced(source, key, over):
  """Whether another source brings all that a base's tensor would give; says so."""
  places = source.table.places(key) if over else []
  if not places or any(place not in over for place in places):
    return False
  other = over[places[0]]
  log.warning("%s replaces %r of %s", other.path, key, source.file_of(key))
  return True


def _check_whole(plan, shapes):
  """UserError naming the first leaf that no source has, and what would have it."""
  if not plan.missing:
    return
  first = plan.missing[0]
  part = first.path.split("/")[0]
  found = any(path.startswith(f"{part}/") for path in plan.pieces)
  more = f" and {len(plan.missing) - 1} more" if len(plan.missing) > 1 else ""
  what = f"no source has our {first}{more}, want shape {list(shapes[first.path])}"
  parts = sorted({place.path.split("/")[0] for place in plan.missing})
  if not found and set(parts) <= set(NEW_PARTS):
    raise UserError(
      f"{what}; add a source, or start from random values: --new={','.join(parts)}"
    )
  remedy = f"; add {_HOLDERS[part]} to --src" if part in _HOLDERS and not found else ""
  raise UserError(f"{what}{remedy}")


def _dtype(path, pieces):
  """The dtype of a leaf's pieces, float32 where they differ; UserError for others."""
  kinds = {np.dtype(piece.origin.infos[piece.key].dtype) for piece in pieces}
  for piece in pieces:
    dtype = np.dtype(piece.origin.infos[piece.key].dtype)
    if dtype.kind != "f" and dtype.name != "bfloat16":
      raise UserError(
        f"{piece.origin.file_of(piece.key)}: {piece.key!r} has dtype {dtype.name}, want"
        f" floating point for our {path!r}; quantised weights cannot be converted"
      )
  return kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)


def describe(plan):
  """Lines of the mapping: published key, its shape, our place."""
  lines = []
  for path, pieces in sorted(plan.pieces.items()):
    for piece in pieces:
      shape = list(piece.origin.infos[piece.key].shape)
      lines.append(f"{piece.key} {shape} -> {Place(path, piece.layer)}")
  return lines
