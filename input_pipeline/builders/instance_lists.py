"""Sources that list the masks of things or parts in a file of COCO's form."""

import abc
from collections.abc import Iterator

from input_pipeline import coco_masks, mask_ops
from input_pipeline.builders import coco_lists, fields
from input_pipeline.builders.builder import Builder, Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.one_target import one_target
from input_pipeline.builders.photographs import find, read_photo
from input_pipeline.records import RecordError, SegConversation

_KEYS = {"category_id": (int,), "segmentation": (list, dict)}


class InstanceLists(Builder):
  """What such sources share; a source says where its files are and how it words them.

  united: all annotations of a category in a picture are one mask and one conversation.
  Otherwise each annotation is, as the published loaders of parts have it, although a
  question for "person arm" then has as many right answers as there are arms.
  """

  united: bool
  photo_prefixes: tuple[str, ...]

  @abc.abstractmethod
  def file(self, src: SourceFolder, split: str) -> str | None:
    """The file of a split; None: it is not there."""

  @abc.abstractmethod
  def phrase(self, category: str, key: str) -> str:
    """How a record with this key asks for a category."""

  @abc.abstractmethod
  def picture_id(self, file_name: str, number: int) -> str:
    """The `image_id` of the picture with this name and id. ValueError for a bad one."""

  def units(self, src: SourceFolder, split: str) -> Iterator[Unit | RecordError]:
    file = self.file(src, split)
    names = coco_lists.categories(src, file)
    for item in coco_lists.by_picture(src, file, _KEYS):
      if isinstance(item, RecordError):
        yield item
        continue
      regions, errors = _named(item.annotations, names, file)
      yield from errors
      if regions:
        photo, number = item.image["file_name"], item.image["id"]
        yield {
          "id": f"{split}/{number}",
          "file": file,
          "photo": photo,
          "number": number,
          "regions": regions,
        }

  def records(
    self, src: SourceFolder, unit: Unit
  ) -> Iterator[SegConversation | RecordError]:
    file = unit["file"]
    try:
      image_id = self.picture_id(unit["photo"], unit["number"])
      photo = read_photo(src, find(src, unit["photo"], self.photo_prefixes))
    except ValueError as error:
      for index, *_ in unit["regions"]:
        yield RecordError(file, f"annotations/{index}", str(error))
      return
    for label, indices, category, segmentations in self._targets(unit["regions"]):
      id = f"{unit['id']}/{label}"
      try:
        phrase = self.phrase(category, f"{self.card.name}/{id}")
        phrase = fields.said(phrase, f"the name cut from {category!r}")
        mask_HW = _drawn(segmentations, photo)
      except ValueError as error:
        where = ",".join(str(index) for index in indices)
        yield RecordError(file, f"annotations/{where}", str(error))
        continue
      yield one_target(
        source=self.card.name,
        id=id,
        photo=photo,
        image_id=image_id,
        phrase=phrase,
        rle=mask_ops.encode_rle(mask_HW),
      )

  def _targets(self, regions):
    """(end of the id, indices of annotations, category, their segmentations)."""
    if not self.united:
      for index, category, segmentation in regions:
        yield index, [index], category, [segmentation]
      return
    groups = {}
    for index, category, segmentation in regions:
      groups.setdefault(category, []).append((index, segmentation))
    for category, found in groups.items():
      indices, segmentations = zip(*found, strict=True)
      yield indices[0], list(indices), category, list(segmentations)


def _named(annotations, names, file):
  """([[index, category name, segmentation]], errors of unknown categories)."""
  regions, errors = [], []
  for index, entry in annotations:
    name = names.get(entry["category_id"])
    if name is None:
      reason = f"category_id {entry['category_id']!r} is none of `categories`"
      errors.append(RecordError(file, f"annotations/{index}", reason))
    else:
      regions.append([index, name, entry["segmentation"]])
  return regions, errors


def _drawn(segmentations, photo):
  """Union of the segmentations as mask_HW. ValueError for one that is no mask."""
  mask_HW = 0
  for segmentation in segmentations:
    mask_HW |= coco_masks.union(segmentation, photo.height, photo.width)
  if not mask_HW.any():
    raise ValueError("its mask is empty")
  return mask_HW
