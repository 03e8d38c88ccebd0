"""Splits that no photograph is in two of, and that stay as they are when data grow.

Which split a photograph falls into depends on the hash of its name alone. Copies stay
together: augmented ones, which share the stem, files of equal content, and what looks
alike by the measure with which `miras data audit` finds leaks.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from input_pipeline import image_ops
from input_pipeline.audit import pictures
from miras_jax.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]*$")


def parse(text: str) -> dict[str, float]:
  """ "train:0.8,val:0.1,test:0.1" -> {name: share}. UserError for what is no split."""
  splits = {}
  for part in text.split(","):
    name, _, share = part.strip().partition(":")
    try:
      value = float(share)
    except ValueError:
      value = -1.0
    if not _NAME.match(name) or name in splits or not 0 < value <= 1:
      raise UserError(
        f"--splits={text}: {part.strip()!r} is no NAME:SHARE, want"
        " train:0.8,val:0.1,test:0.1 or test:1"
      )
    splits[name] = value
  if abs(sum(splits.values()) - 1) > 1e-6:
    raise UserError(f"--splits={text}: the shares add up to {sum(splits.values()):g}")
  return splits


class Photograph(NamedTuple):
  """What is known of a photograph: its file, its stem without what tools append, digest
  of its content, perceptual hash and thumbnail (None: it does not decode)."""

  name: str
  key: str
  digest: str
  hash: int | None = None
  thumb: np.ndarray | None = None


def describe(name: str, key: str, data: bytes) -> Photograph:
  """The Photograph of a file's bytes."""
  digest = hashlib.sha256(data).hexdigest()
  try:
    image_HWC = image_ops.decode_image(data)
  except image_ops.ImageError:
    return Photograph(name, key, digest)  # the builder names it
  look = pictures.perceptual_hash(image_HWC), pictures.thumbnail(image_HWC)
  return Photograph(name, key, digest, *look)


def assign(
  photographs: Iterable[Photograph], shares: Mapping[str, float]
) -> dict[str, str]:
  """Photographs -> {name: split}.

  Those of one key or digest, and those that look alike, fall into one split. Raises
  UserError where there are fewer photographs than splits.
  """
  roots, keys, first, seen = {}, {}, {}, []
  for photograph in photographs:
    keys[photograph.name] = photograph.key
    _join(roots, photograph.key, first.setdefault(photograph.digest, photograph.key))
    if photograph.hash is not None:
      seen.append(photograph)
  for one, other in _alike(seen):
    _join(roots, one.key, other.key)
  groups = sorted({_root(roots, key) for key in keys.values()}, key=_position)
  if len(groups) < len(shares):
    raise UserError(
      f"{len(groups)} different photographs do not make {len(shares)} splits; choose"
      " --splits=train:1"
    )
  chosen = _fill(groups, shares)
  return {name: chosen[_root(roots, key)] for name, key in keys.items()}


def _alike(photographs):
  """Pairs of photographs that look alike."""
  hashes, of_N = np.unique([p.hash for p in photographs], return_inverse=True)
  members = [[] for _ in hashes]
  for i, k in enumerate(of_N):
    members[k].append(photographs[i])
  same = ((k, k) for k in range(len(hashes)))
  for a, b in itertools.chain(same, pictures.near_pairs(hashes)):
    for one, other in itertools.product(members[a], members[b]):
      if one is not other and pictures.alike(one.thumb, other.thumb):
        yield one, other


def _fill(groups, shares):
  """{group: split} by position; a split that none falls into gets the nearest one."""
  chosen, bounds, low = {}, {}, 0.0
  for split, share in shares.items():
    bounds[split] = low, low + share
    low += share
  last = next(reversed(shares))
  for group in groups:
    at = _position(group)
    inside = (split for split, (_, high) in bounds.items() if at < high)
    chosen[group] = next(inside, last)
  for split in shares:
    if split not in chosen.values():
      sizes = {s: list(chosen.values()).count(s) for s in shares}
      movable = [g for g in groups if sizes[chosen[g]] > 1]
      middle = sum(bounds[split]) / 2
      nearest = min(movable, key=lambda g: abs(_position(g) - middle))
      chosen[nearest] = split
  return chosen


def _position(group) -> float:
  digest = hashlib.sha256(group.encode("utf-8", "backslashreplace")).digest()
  return int.from_bytes(digest[:8], "big") / 2**64


def _root(roots, key):
  """The smallest key that `key` was joined with."""
  while (above := roots.setdefault(key, key)) != key:
    roots[key] = roots.setdefault(above, above)
    key = above
  return key


def _join(roots, a, b):
  low, high = sorted((_root(roots, a), _root(roots, b)))
  roots[high] = low
