"""Which file of a step's arrays is missing or cut short, and which leaf it takes along.

STEP/state/_METADATA        the tree
STEP/state/manifest.ocdbt   where the index of all leaves is
STEP/state/**/d/<name>      the index, and the values of leaves one behind the other
"""

import tensorstore as ts

HEADS = ("_METADATA", "manifest.ocdbt")


def first_fault(state) -> str | None:
  """A sentence naming the first file of folder `state` that lacks bytes, or None.

  Looks at names and sizes only; None, too, where the index cannot be understood.
  """
  for name in HEADS:
    if not (state / name).is_file():
      return f"{state / name} is missing"
  try:
    base = ts.KvStore.open(f"file://{state.absolute()}/").result()
    root = ts.ocdbt.dump(base).result()["versions"][-1]["root"]["location"]
    return _fault(state, base, root, "")
  except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
    return None


def _fault(state, base, location, prefix):
  """What is wrong with a node of the index or below it."""
  if fault := _lacks(state, location):
    return f"{fault}: the index of its leaves"
  for entry in ts.ocdbt.dump(base, location).result()["entries"]:
    key = prefix + entry["key"].decode()
    if "indirect_value" in entry and (fault := _lacks(state, entry["indirect_value"])):
      return f"{fault}: values of {_leaf(key)!r}"
    if "location" in entry:
      below = key[: len(prefix) + entry["subtree_common_prefix_length"]]
      if fault := _fault(state, base, entry["location"], below):
        return fault
  return None


def _lacks(state, location):
  """location: "KIND:FOLDER/:FILE:OFFSET:LENGTH" within the folder `state`."""
  place, offset, length = location.rsplit(":", 2)
  path = state / "".join(place.split(":")[1:])
  if not path.is_file():
    return f"{path} is missing"
  if path.stat().st_size < int(offset) + int(length):
    return f"{path} is cut short"
  return None


def _leaf(key):
  """ "trainable.llm.kernel/0.0" -> "trainable/llm/kernel"."""
  return key.partition("/")[0].replace(".", "/")
