"""COCO-Stuff: 164,000 pictures of COCO, every pixel a thing or some stuff."""

import re
from collections.abc import Mapping
from typing import Any

from input_pipeline.builders import picture_ids
from input_pipeline.builders.builder import Card
from input_pipeline.builders.class_maps import ClassMaps, first_folder
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError

_SPLITS = {"train": "train2017", "val": "val2017"}
_MAPS = ("cocostuff/", "stuffthingmaps_trainval2017/", "stuffthingmaps/")
_PHOTOS = ("coco/", "", "coco/images/", "images/")
_NAME_LISTS = ("labels.txt", "cocostuff_classes.txt")
_UNLABELLED, _MAX_ID = 255, 182

CARD = Card(
  name="cocostuff",
  version="1.0.0",
  title="COCO-Stuff 164k",
  description=(
    "COCO's pictures of 2017 with 80 classes of things and 91 of stuff, each class of"
    " a picture one mask. As published, classes whose name holds a hyphen"
    " (`wall-brick`, `plant-other`: 28 of them) are no target; --hyphened=true keeps"
    " them. The pictures are those of COCO train2014 and val2014, so they hold the test"
    " pictures of RefCOCO, RefCOCO+ and RefCOCOg."
  ),
  homepage="https://github.com/nightrome/cocostuff",
  citation="""\
@inproceedings{caesar2018cvpr,
  title={{COCO-Stuff}: Thing and stuff classes in context},
  author={Caesar, Holger and Uijlings, Jasper and Ferrari, Vittorio},
  booktitle={CVPR},
  year={2018}
}""",
  licence="Annotations CC BY 4.0; pictures under their photographers' Flickr licences",
  layout="""\
cocostuff/                       (or stuffthingmaps_trainval2017/)
  train2017/000000000009.png ... 8 bits: value = category id - 1, 255 unlabelled
  val2017/000000000139.png ...   (stuff_*_pixelmaps hold other codes: not these)
  labels.txt                     182 lines `<id>: <name>`, before them `0: unlabeled`
coco/train2017/000000000009.jpg ..., coco/val2017/   the pictures (or without coco/)
""",
  published={"train": {"images": 118_287}, "val": {"images": 5_000}},
)


class CocoStuff(ClassMaps):
  """Values are category ids less one; `hyphened` keeps the names with a hyphen."""

  card = CARD

  def __init__(self, *, hyphened: bool = False):
    super().__init__()
    self._hyphened = hyphened

  def options(self) -> Mapping[str, Any]:
    return {"hyphened": self._hyphened}

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    there = [split for split in _SPLITS if _maps(src, split)]
    if not there:
      raise src.missing(*(f"{folder}train2017" for folder in _MAPS))
    if _name_list(src) is None:
      raise src.missing(_MAPS[0] + _NAME_LISTS[0])
    return tuple(there)

  def folders(self, src: SourceFolder, split: str) -> tuple[str, str]:
    year = _SPLITS[split]
    photos = first_folder(src, *(folder + year for folder in _PHOTOS))
    maps = _maps(src, split)
    if photos is None or maps is None:
      raise src.missing(f"coco/{year}")
    return photos, maps

  def classes(self, src: SourceFolder) -> Mapping[int, str | None]:
    file = _name_list(src)
    if file is None:
      raise src.missing(_MAPS[0] + _NAME_LISTS[0])
    names = _read_names(src, file)
    kept = {
      number - 1: name if self._hyphened or "-" not in name else None
      for number, name in names.items()
      if 1 <= number <= _MAX_ID
    }
    return {**kept, _UNLABELLED: None}

  def picture_id(self, stem: str) -> str:
    if not re.fullmatch(r"\d{12}", stem):
      raise ValueError(f"{stem!r} is no name of COCO 2017, want twelve digits")
    return picture_ids.coco(stem)


def _maps(src, split):
  return first_folder(src, *(folder + _SPLITS[split] for folder in _MAPS))


def _name_list(src):
  return src.first(*(f + name for f in (*_MAPS, "") for name in _NAME_LISTS))


def _read_names(src, file):
  """{category id: name} of lines `<id>: <name>`."""
  try:
    lines = src.read(file, 1 << 20).decode("utf-8-sig").splitlines()
  except ValueError as error:
    raise RecordError(file, WHOLE_FILE, f"cannot be read: {error}") from None
  names = {}
  for number, line in enumerate(lines, start=1):
    if not line.strip():
      continue
    match = re.fullmatch(r"\s*(\d+)\s*:\s*(\S.*?)\s*", line)
    if not match:
      raise RecordError(file, number, f"is {line[:40]!r}, want `<id>: <name>`")
    names[int(match[1])] = match[2]
  return names
