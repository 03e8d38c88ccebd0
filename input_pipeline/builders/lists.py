"""Entries of a source's list, numbered, and what is not even an object named."""

from collections.abc import Iterator

from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError


def numbered(
  src: SourceFolder, name: str, prefix: str = "item"
) -> Iterator[tuple[int, object]]:
  """(index, element) of a streamed list (`SourceFolder.items`).

  Raises RecordError for a file without such a list, or with an empty one.
  """
  index = -1
  for index, item in enumerate(src.items(name, prefix)):
    yield index, item
  if index < 0:
    key = prefix.removesuffix("item").removesuffix(".")
    where = f"at {key!r}" if key else "of entries"
    raise RecordError(name, WHOLE_FILE, f"holds no list {where}, or an empty one")


def value(entry: object, key: str, *kinds: type):
  """`entry[key]`. ValueError where it is missing or of none of the kinds."""
  if not isinstance(entry, dict):
    raise ValueError(f"is a {type(entry).__name__}, want an object")
  if key not in entry:
    raise ValueError(f"has no {key!r}")
  found = entry[key]
  if not isinstance(found, kinds) or isinstance(found, bool):
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"{key} is a {type(found).__name__}, want {wanted}")
  return found
