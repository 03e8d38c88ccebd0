"""ADE20K whole, the release of 2021: 3,688 categories, and parts of parts.

H W size of the picture; a level is 0 for objects, 1 for their parts, and so on.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from input_pipeline import image_ops, mask_ops
from input_pipeline.builders import fields, wording
from input_pipeline.builders.builder import Builder, Card, Unit
from input_pipeline.builders.class_maps import check_size, first_folder
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.one_target import one_target
from input_pipeline.builders.photographs import read_photo
from input_pipeline.records import WHOLE_FILE, RecordError, SegConversation

_ROOTS = ("ADE20K_2021_17_01/images/ADE", "images/ADE")
_FOLDERS = {"train": "training", "val": "validation"}
_MAX_LEVEL = 8
_MAX_OBJECTS = 10_000

CARD = Card(
  name="ade20k_full",
  version="1.0.0",
  title="ADE20K, full, 2021_17_01",
  description=(
    "Photographs of scenes with objects of 3,688 categories and parts of them. All"
    " objects of a category in a picture are one mask; all parts of a name that belong"
    ' to one category are one, too, worded "car door" or "the door of the car". A'
    " category goes by the first of its synonyms. Faces and number plates are blurred."
  ),
  homepage="https://groups.csail.mit.edu/vision/datasets/ADE20K/",
  citation="""\
@article{zhou2019semantic,
  title={Semantic understanding of scenes through the {ADE20K} dataset},
  author={Zhou, Bolei and Zhao, Hang and Puig, Xavier and Xiao, Tete and
    Fidler, Sanja and Barriuso, Adela and Torralba, Antonio},
  journal={International Journal of Computer Vision},
  volume={127},
  pages={302--321},
  year={2019}
}""",
  licence=(
    "ADE20K terms of use: research and education, not commercial; tools BSD-3-Clause"
  ),
  layout="""\
ADE20K_2021_17_01/         (or DIR itself)
  images/ADE/training/<scene group>/<scene>/ADE_train_00000001.jpg
    ADE_train_00000001.json         objects and parts; may be in latin-1
    ADE_train_00000001_seg.png      class = R // 10 * 256 + G, 0 not annotated
    ADE_train_00000001_parts_1.png  parts, the same way; _parts_2 parts of parts
  images/ADE/validation/...
(instance_*.png and index_ade20k.pkl are not needed)
""",
  published={"train": {"images": 25_574}, "val": {"images": 2_000}},
)


class _Target(NamedTuple):
  """A category at a level, as a part of another at the level below, if it is one."""

  level: int
  category: int
  name: str
  whole: int = 0
  whole_name: str = ""


class Ade20kFull(Builder):
  """One conversation a category and picture, and one a part of a category."""

  card = CARD

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    root = first_folder(src, *_ROOTS)
    if root is None:
      raise src.missing(*_ROOTS)
    there = [s for s, folder in _FOLDERS.items() if src.is_dir(f"{root}/{folder}")]
    if not there:
      raise src.missing(f"{root}/training")
    return tuple(there)

  def units(self, src: SourceFolder, split: str) -> Iterator[Unit | RecordError]:
    folder = f"{first_folder(src, *_ROOTS)}/{_FOLDERS[split]}"
    for photo in src.walk(folder, ".jpg"):
      stem = photo.removesuffix(".jpg")
      yield {
        "file": f"{stem}.json",
        "photo": photo,
        "stem": stem,
        "id": f"{split}/{pathlib.PurePosixPath(stem).name}",
      }

  def records(
    self, src: SourceFolder, unit: Unit
  ) -> Iterator[SegConversation | RecordError]:
    try:
      document = src.json(unit["file"], fallback_encoding="latin-1")
      targets, orphans = _targets(document)
      photo = read_photo(src, unit["photo"])
      levels = sorted({target.level for target in targets})
      maps = {k: _read_level(src, unit["stem"], k, photo) for k in levels}
    except ValueError as error:
      yield RecordError(unit["file"], WHOLE_FILE, str(error))
      return
    for number in orphans:
      reason = f"object {number} is a part of nothing that is listed"
      yield RecordError(unit["file"], f"object/{number}", reason)
    name = pathlib.PurePosixPath(unit["stem"]).name
    for target in targets:
      id = f"{unit['id']}/{target.level}-{target.category}-{target.whole}"
      mask_HW = maps[target.level] == target.category
      if target.level and target.level - 1 in maps:
        mask_HW &= maps[target.level - 1] == target.whole
      if not mask_HW.any():
        reason = f"no pixel shows {target.name!r} at level {target.level}"
        yield RecordError(unit["file"], f"name_ndx/{target.category}", reason)
        continue
      yield one_target(
        source=self.card.name,
        id=id,
        photo=photo,
        image_id=f"ade20k/{name}",
        phrase=_phrase(target, f"{self.card.name}/{id}"),
        rle=mask_ops.encode_rle(mask_HW),
      )


def _phrase(target, key):
  if not target.whole:
    return target.name
  return wording.choose("part", key, object=target.whole_name, part=target.name)


def _targets(document):
  """(the categories of a picture's JSON and which is part of which, each once; ids of
  parts of nothing).

  Raises ValueError for a document of another form. MATLAB wrote it: a list of one item
  is the item, and nothing is an empty list.
  """
  annotation = fields.mapping(document, "the file").get("annotation")
  objects = _as_list(fields.mapping(annotation, "annotation").get("object"))
  if len(objects) > _MAX_OBJECTS:
    raise ValueError(f"lists {len(objects):,} objects, the limit is {_MAX_OBJECTS:,}")
  listed = {}
  for entry in objects:
    entry = fields.mapping(entry, "an object")
    listed[fields.whole(entry, "id")] = (entry, *_level_and_wholes(entry))
  targets, orphans = {}, []
  for number, (entry, level, wholes) in listed.items():
    wholes = [_category(listed[w][0]) for w in wholes if w in listed]
    if level and not wholes:
      orphans.append(number)
    for whole in wholes if level else [(0, "")]:
      targets[_Target(level, *_category(entry), *whole)] = None
  if not targets:
    raise ValueError("lists no object")
  return list(targets), orphans


def _level_and_wholes(entry):
  parts = entry.get("parts")
  if not isinstance(parts, dict):
    return 0, []
  level = parts.get("part_level")
  level = level if isinstance(level, int) else 0
  if not 0 <= level <= _MAX_LEVEL:
    raise ValueError(f"part_level is {level}, want 0 to {_MAX_LEVEL}")
  return level, [w for w in _as_list(parts.get("ispartof")) if isinstance(w, int)]


def _category(entry):
  """(number, first synonym) of an object's category."""
  number = fields.whole(entry, "name_ndx")
  return number, re.split("[,;]", fields.text(entry, "name"))[0].strip()


def _as_list(value):
  if value is None:
    return []
  return value if isinstance(value, list) else [value]


def _read_level(src, stem, level, photo):
  """map_HW int32 of the categories at a level. ValueError with the file's name."""
  name = f"{stem}_parts_{level}.png" if level else f"{stem}_seg.png"
  try:
    data = src.read(name)
    if data[:8] != b"\x89PNG\r\n\x1a\n":
      raise ValueError("is no PNG: any other form may have changed its values")
    rgb_HWC = image_ops.decode_image(data)
    check_size(rgb_HWC[..., 0], photo)
  except FileNotFoundError:
    raise ValueError(f"{name}: no such file") from None
  except (ValueError, image_ops.ImageError) as error:
    raise ValueError(f"{name}: {error}") from None
  return rgb_HWC[..., 0].astype(np.int32) // 10 * 256 + rgb_HWC[..., 1]
