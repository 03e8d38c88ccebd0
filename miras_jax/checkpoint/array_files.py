"""Which file of a step's arrays is missing or cut short, and which leaf it takes along.

STEP/state/_METADATA        the tree
STEP/state/manifest.ocdbt   where the index of all leaves is
STEP/state/**/d/<name>      the index, and the values of leaves one behind the other
"""

from typing import Any, NamedTuple

import tensorstore as ts

from miras_jax.storage import copies, reach

HEADS = ("_METADATA", "manifest.ocdbt")


def first_fault(state) -> str | None:
  """A sentence naming the first file of folder `state` that lacks bytes, or None.

  Looks at names and sizes only; None, too, where the index cannot be understood.
  """
  sizes = copies.sizes(state)
  for name in HEADS:
    if name not in sizes:
      return f"{state / name} is missing"
  place = f"{state}/" if reach.is_remote(state) else f"file://{state.absolute()}/"
  try:
    base = ts.KvStore.open(place).result()
    root = ts.ocdbt.dump(base).result()["versions"][-1]["root"]["location"]
    return _fault(_Files(state, sizes), base, root, "")
  except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
    return None


class _Files(NamedTuple):
  """A folder and the bytes of each file below it."""

  folder: Any
  sizes: dict[str, int]


def _fault(files, base, location, prefix):
  """What is wrong with a node of the index or below it."""
  if fault := _lacks(files, location):
    return f"{fault}: the index of its leaves"
  for entry in ts.ocdbt.dump(base, location).result()["entries"]:
    key = prefix + entry["key"].decode()
    if "indirect_value" in entry and (fault := _lacks(files, entry["indirect_value"])):
      return f"{fault}: values of {_leaf(key)!r}"
    if "location" in entry:
      below = key[: len(prefix) + entry["subtree_common_prefix_length"]]
      if fault := _fault(files, base, entry["location"], below):
        return fault
  return None


def _lacks(files, location):
  """location: "KIND:FOLDER/:FILE:OFFSET:LENGTH" within the folder `state`."""
  place, offset, length = location.rsplit(":", 2)
  name = "".join(place.split(":")[1:])
  if name not in files.sizes:
    return f"{files.folder / name} is missing"
  if files.sizes[name] < int(offset) + int(length):
    return f"{files.folder / name} is cut short"
  return None


def _leaf(key):
  """ "trainable.llm.kernel/0.0" -> "trainable/llm/kernel"."""
  return key.partition("/")[0].replace(".", "/")
