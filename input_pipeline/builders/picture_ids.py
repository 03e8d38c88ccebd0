"""One id for one picture, under whatever name a source keeps it.

COCO's pictures are in most sources: as `COCO_train2014_<12 digits>.jpg`, as
`<12 digits>.jpg` of 2017 (the same numbers, split differently), inside longer names. So
they are known by number alone; `vg` and `gqa` share Visual Genome's numbers.
"""

import posixpath
import re

from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.lists import numbered

_COCO_NAME = re.compile(r"COCO_(?:train|val|test)20\d\d_(\d{12})(?!\d)")
_COCO_2017 = re.compile(r"(?:^|/)(?:train|val|test|unlabeled)20\d\d/(\d{12})\.\w+$")
_VISUAL_GENOME = re.compile(r"(?:^|/)(?:VG_100K(?:_2)?|gqa/images)/(\d{1,15})\.\w+$")
# Folder names under which others keep a picture, and what its id begins with.
_FOLDERS = (
  (re.compile(r"(?:^|/)sam/images/(sa_\d+)\.\w+$"), "sam"),
  (re.compile(r"(?:^|/)(?:share_)?textvqa/\w+/(\w+)\.\w+$"), "openimages"),
  (re.compile(r"(?:^|/)ocr_vqa/images/([^/]+)\.\w+$"), "ocr_vqa"),
  (re.compile(r"(?:^|/)images_191task_1k/([^/]+)$"), "vflan"),
)


def coco(number: int | str) -> str:
  """Id of COCO's picture of a number, of any year."""
  return f"coco/{int(number):012d}"


def visual_genome(number: int | str, coco_numbers: dict[int, int] | None = None) -> str:
  """Id of Visual Genome's picture of a number; COCO's where it is COCO's."""
  found = (coco_numbers or {}).get(int(number))
  return f"vg/{int(number)}" if found is None else coco(found)


def of_path(path: str, coco_numbers: dict[int, int] | None = None) -> str:
  """Id of a picture from its path; by default the path without its last extension.

  coco_numbers: those of `read_coco_numbers`.
  """
  if match := _COCO_NAME.search(path) or _COCO_2017.search(path):
    return coco(match[1])
  if match := _VISUAL_GENOME.search(path):
    return visual_genome(match[1], coco_numbers)
  for pattern, source in _FOLDERS:
    if match := pattern.search(path):
      return f"{source}/{match[1]}"
  return posixpath.splitext(path)[0]


def read_coco_numbers(src: SourceFolder, *names: str) -> dict[int, int]:
  """{Visual Genome's number: COCO's} from the first `image_data.json` that is there.

  About half of the 108,077 pictures are COCO's. {} without the file.
  """
  name = src.first(*names)
  numbers = {}
  for _, entry in numbered(src, name) if name else ():
    if not isinstance(entry, dict):
      continue
    number, found = entry.get("image_id", entry.get("id")), entry.get("coco_id")
    if isinstance(number, int) and isinstance(found, int):
      numbers[number] = found
  return numbers
