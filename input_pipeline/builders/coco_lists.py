"""Files in COCO's form: pictures and annotations of any number, by picture."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from input_pipeline.builders import fields
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.builders.lists import numbered, value
from input_pipeline.builders.picture_ids import coco
from input_pipeline.records import RecordError

# Where the pictures of COCO are kept, before `train2017/...`.
PHOTO_PREFIXES = ("coco/", "", "coco/images/", "images/")


class Annotated(NamedTuple):
  """A picture's entry of `images` and what `annotations` says of it: (index, entry)."""

  image: dict
  annotations: list[tuple[int, dict]]


def categories(src: SourceFolder, file: str) -> dict[int, str]:
  """{id: name}; ids have gaps, so positions say nothing. RecordError for a bad list."""
  names = {}
  for index, entry in numbered(src, file, "categories.item"):
    try:
      name = fields.said(value(entry, "name", str), "name")
      names[value(entry, "id", int)] = name
    except ValueError as error:
      raise RecordError(file, f"categories/{index}", str(error)) from None
  return names


def by_picture(
  src: SourceFolder, name: str, keep: Mapping[str, tuple[type, ...]]
) -> Iterator[Annotated | RecordError]:
  """The pictures that have annotations, in the order of their ids as text.

  keep: the keys of an annotation that are needed, and their types. A picture without
  annotations is no fault of anybody and yields nothing; annotations without a picture
  are named.
  """
  with grouped(fields.as_pairs(_entries(src, name, keep))) as groups:
    yield from fields.errors(groups)
    for key, entries in groups:
      if key == fields.ERRORS:
        continue
      image = next((entry for kind, _, entry in entries if kind == "image"), None)
      found = [(i, entry) for kind, i, entry in entries if kind == "annotation"]
      if image is not None and found:
        yield Annotated(image, found)
      elif image is None:
        for index, _ in found:
          reason = f"its picture {key} is none of `images`"
          yield RecordError(name, f"annotations/{index}", reason)


def _entries(src, name, keep):
  """(picture's id, [kind, index, entry]) of both lists, RecordErrors among them."""
  for index, entry in numbered(src, name, "images.item"):
    try:
      needed = {"file_name": value(entry, "file_name", str)}
      needed["id"] = value(entry, "id", int)
      yield str(needed["id"]), ["image", index, needed]
    except ValueError as error:
      yield RecordError(name, f"images/{index}", str(error))
  for index, entry in numbered(src, name, "annotations.item"):
    try:
      needed = {key: value(entry, key, *kinds) for key, kinds in keep.items()}
      yield str(value(entry, "image_id", int)), ["annotation", index, needed]
    except ValueError as error:
      yield RecordError(name, f"annotations/{index}", str(error))


def coco_picture_id(file_name: str, number: int) -> str:
  """Id of COCO's picture; ValueError where name and number disagree."""
  digits = file_name.rsplit("/", 1)[-1].rsplit(".", 1)[0].rsplit("_", 1)[-1]
  if not digits.isdecimal() or int(digits) != number:
    raise ValueError(f"picture {number} has the file {file_name!r} of another number")
  return coco(number)
