"""The two files of REFER's layout, read entry by entry.

refs(<split by>).p is a pickle of Python 2, or the same list as JSON; instances.json has
the images and annotations that its entries name by number.
"""

from collections.abc import Iterator

from input_pipeline import plain_pickle
from input_pipeline.builders import fields
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import Groups
from input_pipeline.builders.lists import numbered
from input_pipeline.records import WHOLE_FILE, RecordError


def raw_refs(src: SourceFolder, name: str) -> Iterator[tuple[int, object]]:
  """(index, entry) of the list of expressions. RecordError for what is no such list.

  JSON is streamed; a pickle cannot be and is held whole.
  """
  if name.endswith(".json"):
    yield from numbered(src, name)
    return
  try:
    refs = plain_pickle.load(src.read(name, plain_pickle.MAX_BYTES))
    if not isinstance(refs, list):
      raise ValueError(f"holds a {type(refs).__name__}, want a list of expressions")
  except ValueError as error:
    raise RecordError(name, WHOLE_FILE, str(error)) from None
  yield from enumerate(refs)


def is_in(number, numbers) -> bool:
  """Whether a number of a file, which may be anything, is one of the wanted."""
  return isinstance(number, int) and number in numbers


def images_of(src: SourceFolder, instances: str, wanted: set[int]) -> Iterator[tuple]:
  """(image id, its entry) pairs of the wanted photographs."""
  for item in src.items(instances, "images.item"):
    if isinstance(item, dict) and is_in(item.get("id"), wanted):
      keys = ("file_name", "height", "width")
      yield item["id"], {key: item.get(key) for key in keys}


def image_defect(image_id: str, images: list, file: str) -> str:
  """Why a photograph cannot be used; "": it can."""
  if not images:
    return f"image_id {image_id} is not in {file}"
  try:
    fields.text(images[0], "file_name", 1024)
    for key in ("height", "width"):
      fields.whole(images[0], key)
  except ValueError as error:
    return f"image {image_id} of {file}: {error}"
  return ""


def label_of(labels: Groups, number: int, image_id: str, file: str) -> dict:
  """The annotation of a number. ValueError without one, or of another photograph."""
  found = labels[number]
  if not found:
    raise ValueError(f"ann_id {number} is not in {file}")
  other = str(found[0]["image_id"])
  if other != image_id:
    raise ValueError(
      f"ann_id {number} is of image {other[:40]}, the expression of image {image_id}"
    )
  return found[0]
