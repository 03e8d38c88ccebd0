"""Parts of things: PASCAL-Part as LISA reads it, and PACO-LVIS.

Both have categories of the form `object:part`.
"""

import re
from collections.abc import Mapping
from typing import Any

from input_pipeline.builders import wording
from input_pipeline.builders.builder import Card
from input_pipeline.builders.coco_lists import PHOTO_PREFIXES, coco_picture_id
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.instance_lists import InstanceLists

_PASCAL_ROOTS = ("vlpart/pascal_part/", "pascal_part/", "")
_PACO_ROOTS = ("vlpart/paco/annotations/", "paco/annotations/", "annotations/", "")

_UNITED = (
  " Each annotation is a conversation, as published, although a picture often shows"
  " several parts of one name; with --united=true all of a name are one mask."
)

PASCAL_PART = Card(
  name="pascal_part",
  version="1.0.0",
  title="PASCAL-Part, lists of VLPart",
  description=(
    "Parts of the things in pictures of PASCAL VOC 2010: 93 pairs of an object and a"
    ' part, worded "dog head" or "the head of the dog". Left and right parts are'
    " annotations of their own under one name; whole objects are not in the lists."
    + _UNITED
  ),
  homepage="https://github.com/facebookresearch/VLPart",
  citation="""\
@inproceedings{chen2014detect,
  title={Detect what you can: Detecting and representing objects using holistic models
    and body parts},
  author={Chen, Xianjie and Mottaghi, Roozbeh and Liu, Xiaobai and Fidler, Sanja and
    Urtasun, Raquel and Yuille, Alan},
  booktitle={CVPR},
  year={2014}
}
@inproceedings{peize2023vlpart,
  title={Going denser with open-vocabulary part segmentation},
  author={Sun, Peize and Chen, Shoufa and Zhu, Chenchen and Xiao, Fanyi and
    Luo, Ping and Xie, Saining and Yan, Zhicheng},
  booktitle={ICCV},
  year={2023}
}""",
  licence="None stated for the annotations; pictures under Flickr's terms; code MIT",
  layout="""\
vlpart/pascal_part/        (or pascal_part/, or DIR itself)
  train.json  val.json     COCO's form, RLE; ids of pictures are 2008000002, of
                           annotations from 0; not train_base.json, train_one.json
  VOCdevkit/VOC2010/JPEGImages/2008_000002.jpg ...
The .mat files of Annotations_Part are not read: VLPart's script turns them into lists.
""",
)

PACO_LVIS = Card(
  name="paco_lvis",
  version="1.0.0",
  title="PACO-LVIS",
  description=(
    "Objects of 75 categories and their parts, 456 pairs, in COCO's pictures of 2017."
    " `car_(automobile):antenna` is worded"
    ' "car antenna" or "the antenna of the car". Same-named parts of one object are one'
    ' annotation ("leg" means all of its legs).'
    + _UNITED
    + " The pictures may be test pictures of RefCOCO, RefCOCO+ and RefCOCOg."
  ),
  homepage="https://github.com/facebookresearch/paco",
  citation="""\
@inproceedings{ramanathan2023paco,
  title={{PACO}: Parts and attributes of common objects},
  author={Ramanathan, Vignesh and Kalia, Anmol and Petrovic, Vladan and Wen, Yi and
    Zheng, Baixue and Guo, Baishan and Wang, Rui and Marquez, Aaron and
    Kovvuri, Rama and Kadian, Abhishek and others},
  booktitle={CVPR},
  year={2023}
}""",
  licence="None stated for the annotations; code MIT; pictures under Flickr's licences",
  layout="""\
vlpart/paco/annotations/   (or annotations/, or DIR itself)
  paco_lvis_v1_train.json  paco_lvis_v1_val.json  paco_lvis_v1_test.json
coco/train2017/000000000009.jpg ..., coco/val2017/   (or without coco/); which of the
                           two, `file_name` says, not the split
""",
  published={
    "train": {"images": 45_790, "objects": 217_117, "parts": 395_071},
    "val": {"images": 2_410, "objects": 10_794, "parts": 20_945},
    "test": {"images": 9_443, "objects": 45_861, "parts": 86_041},
  },
)


class Parts(InstanceLists):
  """What lists of `object:part` share."""

  _files: Mapping[str, str]  # {split: name of its list}
  _roots: tuple[str, ...]

  def __init__(self, *, united: bool = False):
    self.united = united

  def options(self) -> Mapping[str, Any]:
    return {"united": self.united}

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    there = tuple(split for split in self._files if self.file(src, split))
    if not there:
      raise src.missing(self._roots[0] + self._files["train"])
    return there

  def file(self, src: SourceFolder, split: str) -> str | None:
    return src.first(*(root + self._files[split] for root in self._roots))

  def phrase(self, category: str, key: str) -> str:
    thing, _, part = category.partition(":")
    thing, part = _cut(thing), _cut(part)
    if not part:
      return thing
    return wording.choose("part", key, object=thing, part=part)


class PascalPart(Parts):
  """Pictures and ids are PASCAL VOC's."""

  card = PASCAL_PART
  _files = {"train": "train.json", "val": "val.json"}
  _roots = _PASCAL_ROOTS
  photo_prefixes = tuple(r + "VOCdevkit/VOC2010/JPEGImages/" for r in _PASCAL_ROOTS)

  def picture_id(self, file_name: str, number: int) -> str:
    match = re.fullmatch(r"(\d{4}_\d{6})\.jpg", file_name)
    if not match or int(match[1].replace("_", "")) != number:
      raise ValueError(f"picture {number} has the file {file_name!r} of another number")
    return f"voc/{match[1]}"


class PacoLvis(Parts):
  """Pictures and ids are COCO's; `file_name` has the folder."""

  card = PACO_LVIS
  _files = {split: f"paco_lvis_v1_{split}.json" for split in ("train", "val", "test")}
  _roots = _PACO_ROOTS
  photo_prefixes = PHOTO_PREFIXES

  def picture_id(self, file_name: str, number: int) -> str:
    return coco_picture_id(file_name, number)


def _cut(name):
  """`car_(automobile)` -> `car`; other underscores stay, as published."""
  return name.split("_(")[0].strip()
