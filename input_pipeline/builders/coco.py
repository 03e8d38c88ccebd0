"""COCO itself: captions, and all things of a name in a picture."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from input_pipeline.builders import coco_lists, fields, wording
from input_pipeline.builders.builder import Builder, Card, Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.instance_lists import InstanceLists
from input_pipeline.builders.photographs import find, read_photo
from input_pipeline.records import RecordError, SegConversation
from miras_jax.errors import UserError

_ROOTS = ("coco/annotations/", "annotations/", "")
YEARS = ("2017", "2014")
_IMAGES = {"train": {"images": 118_287}, "val": {"images": 5_000}}

_CITATION = """\
@inproceedings{lin2014microsoft,
  title={Microsoft {COCO}: Common objects in context},
  author={Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and
    Perona, Pietro and Ramanan, Deva and Doll{\\'a}r, Piotr and Zitnick, C Lawrence},
  booktitle={ECCV},
  year={2014}
}"""
_CAPTION_CITATION = """
@article{chen2015microsoft,
  title={Microsoft {COCO} captions: Data collection and evaluation server},
  author={Chen, Xinlei and Fang, Hao and Lin, Tsung-Yi and Vedantam, Ramakrishna and
    Gupta, Saurabh and Doll{\\'a}r, Piotr and Zitnick, C Lawrence},
  journal={arXiv:1504.00325},
  year={2015}
}"""
_LAYOUT = """\
coco/                      (or DIR itself)
  annotations/{kind}_train2017.json, {kind}_val2017.json
  train2017/000000000009.jpg ..., val2017/...            some are greyscale
with --year=2014:
  annotations/{kind}_train2014.json, {kind}_val2014.json
  train2014/COCO_train2014_000000000009.jpg ..., val2014/...
"""
_LEAK = (
  " The pictures of 2014 and 2017 are the same, split differently, and among them are"
  " all test pictures of RefCOCO, RefCOCO+ and RefCOCOg."
)

INSTANCES = Card(
  name="coco_instances",
  version="1.0.0",
  title="COCO instances, by name",
  description=(
    "Things of 80 names in photographs. All things of a name in a picture are one mask,"
    " crowds among them, since a question says no more than the name." + _LEAK
  ),
  homepage="https://cocodataset.org",
  citation=_CITATION,
  licence="Annotations CC BY 4.0; pictures under the licences that the file lists",
  layout=_LAYOUT.format(kind="instances"),
  published=_IMAGES,
)
CAPTIONS = Card(
  name="coco_captions",
  version="1.0.0",
  title="COCO captions",
  description=(
    "Sentences that describe photographs, five to seven each, every one a conversation"
    " without a mask." + _LEAK
  ),
  homepage="https://cocodataset.org",
  citation=_CITATION + _CAPTION_CITATION,
  licence="Annotations CC BY 4.0; pictures under the licences that the file lists",
  layout=_LAYOUT.format(kind="captions"),
  published={
    "train": {"images": 118_287, "conversations": 591_753},
    "val": {"images": 5_000, "conversations": 25_014},
  },
)
_CAPTIONS_2014 = {
  "train": {"images": 82_783, "conversations": 414_113},
  "val": {"images": 40_504, "conversations": 202_654},
}
_IMAGES_2014 = {"train": {"images": 82_783}, "val": {"images": 40_504}}


class _Year:
  """The files of a year, 2014 or 2017."""

  def __init__(self, kind, year):
    if year not in YEARS:
      raise UserError(f"--year={year}: want one of {', '.join(YEARS)}")
    self.year = year
    self._names = {s: f"{kind}_{s}{year}.json" for s in ("train", "val")}

  def file(self, src, split):
    return src.first(*(root + self._names[split] for root in _ROOTS))

  def splits(self, src):
    there = tuple(split for split in self._names if self.file(src, split))
    if not there:
      raise src.missing(_ROOTS[0] + self._names["train"])
    return there

  def prefixes(self, split):
    """Where the pictures of a split are kept."""
    return tuple(f"{root}{split}{self.year}/" for root in coco_lists.PHOTO_PREFIXES)


class CocoInstances(InstanceLists):
  """One conversation a name and picture."""

  united = True

  def __init__(self, *, year: str = YEARS[0]):
    self._year = _Year("instances", year)
    self.card = INSTANCES
    if year == "2014":
      self.card = dataclasses.replace(INSTANCES, published=_IMAGES_2014)
    # `file_name` has no folder; a name belongs to one year and split alone.
    self.photo_prefixes = self._year.prefixes("train") + self._year.prefixes("val")

  def options(self) -> Mapping[str, Any]:
    return {"year": self._year.year}

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    return self._year.splits(src)

  def file(self, src: SourceFolder, split: str) -> str | None:
    return self._year.file(src, split)

  def phrase(self, category: str, key: str) -> str:
    return category

  def picture_id(self, file_name: str, number: int) -> str:
    return coco_lists.coco_picture_id(file_name, number)


class CocoCaptions(Builder):
  """One conversation a caption."""

  def __init__(self, *, year: str = YEARS[0]):
    self._year = _Year("captions", year)
    self.card = CAPTIONS
    if year == "2014":
      self.card = dataclasses.replace(CAPTIONS, published=_CAPTIONS_2014)

  def options(self) -> Mapping[str, Any]:
    return {"year": self._year.year}

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    return self._year.splits(src)

  def units(self, src: SourceFolder, split: str) -> Iterator[Unit | RecordError]:
    file = self._year.file(src, split)
    for item in coco_lists.by_picture(src, file, {"caption": (str,)}):
      if isinstance(item, RecordError):
        yield item
        continue
      yield {
        "id": f"{split}/{item.image['id']}",
        "file": file,
        "split": split,
        "photo": item.image["file_name"],
        "number": item.image["id"],
        "captions": [[index, entry["caption"]] for index, entry in item.annotations],
      }

  def records(
    self, src: SourceFolder, unit: Unit
  ) -> Iterator[SegConversation | RecordError]:
    try:
      image_id = coco_lists.coco_picture_id(unit["photo"], unit["number"])
      prefixes = self._year.prefixes(unit["split"])
      photo = read_photo(src, find(src, unit["photo"], prefixes))
    except ValueError as error:
      for index, _ in unit["captions"]:
        yield RecordError(unit["file"], f"annotations/{index}", str(error))
      return
    for index, caption in unit["captions"]:
      id = f"{unit['id']}/{index}"
      try:
        answer = fields.answer(caption, "caption")
      except ValueError as error:
        yield RecordError(unit["file"], f"annotations/{index}", str(error))
        continue
      question = wording.choose("caption", f"{self.card.name}/{id}")
      yield SegConversation(
        id=id,
        source=self.card.name,
        image=photo.data,
        turns=(("user", question), ("assistant", answer)),
        targets=(),
        image_id=image_id,
      )
