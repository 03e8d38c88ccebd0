"""Whether two trees of ours hold the same numbers, bit for bit."""

import re

import numpy as np

from miras_jax.convert.folder import open_tree
from miras_jax.errors import UserError


def compare(paths, *, leaves=""):
  """Count of the leaves of two folders, of training or converted, that are all equal.

  leaves: regex; only the paths that it finds are compared. Raises UserError naming the
  first leaf that one lacks, or whose dtype, shape or any bit differs.
  """
  with open_tree(paths[0]) as first, open_tree(paths[1]) as second:
    picked = [_picked(tree, leaves) for tree in (first, second)]
    if not picked[0]:
      raise UserError(f"{paths[0]}: no leaf matches --leaves={leaves}")
    if alone := sorted(picked[0] ^ picked[1]):
      raise UserError(f"only one of {' and '.join(paths)} has {alone[0]!r}")
    different = [p for p in sorted(picked[0]) if not _equal(first, second, p)]
    if different:
      one = different[0]
      raise UserError(
        f"{paths[0]} and {paths[1]}: {len(different)} of {len(picked[0])} leaves"
        f" differ, the first is {one!r}, {first.infos[one]} and {second.infos[one]}"
      )
    return len(picked[0])


def _picked(tree, leaves):
  try:
    return {path for path in tree.infos if re.search(leaves, path)}
  except re.error as error:
    raise UserError(f"--leaves={leaves} is no regular expression: {error}") from None


def _equal(first, second, path):
  """Whether dtype, shape and every bit are the same (a NaN is equal to itself)."""
  if first.infos[path] != second.infos[path]:
    return False
  pairs = zip(first.arrays(path), second.arrays(path), strict=True)
  return all(np.array_equal(_bytes(a), _bytes(b)) for a, b in pairs)


def _bytes(array):
  return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
