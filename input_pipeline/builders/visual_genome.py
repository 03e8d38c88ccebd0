"""Visual Genome's region phrases with masks, in the form in which MIRAS reads them.

Visual Genome itself has boxes and no masks: nothing there says what of a box is meant,
so a release without the list of masks is refused.
"""

import pathlib
import re
from collections.abc import Iterator

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.builders import fields, picture_ids
from input_pipeline.builders.builder import Builder, Card, Unit
from input_pipeline.builders.class_maps import check_size, read_class_map
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.builders.lists import numbered, value
from input_pipeline.builders.one_target import one_target
from input_pipeline.builders.photographs import read_photo
from input_pipeline.records import RecordError, SegConversation
from miras_jax.errors import UserError

_LISTS = ("VG/train_new.json", "train_new.json")
_REGIONS = ("region_descriptions.json", "VG/region_descriptions.json")
_IMAGE_DATA = ("image_data.json", "VG/image_data.json")
_FOLDERS = ("", "VG/")
_TAIL = 4  # parts of an absolute path that may lie below DIR

CARD = Card(
  name="vg",
  version="1.0.0",
  title="Visual Genome, region phrases with masks",
  description=(
    "Phrases that describe a region of a picture, and its mask. Visual Genome has boxes"
    " only; the masks are those of a list that MIRAS trains on and that is not"
    " published. Phrases are in lower case, as published. About half of the pictures"
    " are COCO's: with image_data.json beside the list they get COCO's ids, without it"
    " a leak into the test pictures of RefCOCO, RefCOCO+ and RefCOCOg is not seen."
  ),
  homepage="https://homes.cs.washington.edu/~ranjay/visualgenome/",
  citation="""\
@article{krishna2017visual,
  title={Visual {Genome}: Connecting language and vision using crowdsourced dense image
    annotations},
  author={Krishna, Ranjay and Zhu, Yuke and Groth, Oliver and Johnson, Justin and
    Hata, Kenji and Kravitz, Joshua and Chen, Stephanie and Kalantidis, Yannis and
    Li, Li-Jia and Shamma, David A and others},
  journal={International Journal of Computer Vision},
  volume={123},
  pages={32--73},
  year={2017}
}""",
  licence="CC BY 4.0; none stated for the masks",
  layout="""\
VG/train_new.json          list of {image_path, mask, caption}; paths may be absolute:
                           their last parts are looked for below DIR and DIR/VG
VG/images/2345.jpg ...     (or VG_100K/, VG_100K_2/: as the paths end)
VG/masks/....png           8 bits, 0 and 255
image_data.json            (optional) [{image_id, coco_id, ...}] of Visual Genome
region_descriptions.json   alone is not enough: it holds boxes and no masks
""",
)


class VisualGenome(Builder):
  """One conversation a region."""

  card = CARD

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    if src.first(*_LISTS):
      return ("train",)
    if boxes := src.first(*_REGIONS):
      raise UserError(
        f"--src={src.root}: {boxes} holds boxes and no masks, and a box is no target;"
        f" {_LISTS[0]} (image_path, mask, caption) is needed. For SegLLM's"
        " conversations about these regions with masks: `miras data build mrseg`"
      )
    raise src.missing(_LISTS[0])

  def units(self, src: SourceFolder, split: str) -> Iterator[Unit | RecordError]:
    file = src.first(*_LISTS)
    coco_numbers = picture_ids.read_coco_numbers(src, *_IMAGE_DATA)
    with grouped(fields.as_pairs(_regions(src, file))) as groups:
      yield from fields.errors(groups)
      for path, regions in groups:
        if path == fields.ERRORS:
          continue
        number = re.search(r"(?<!\d)(\d{1,15})\.\w+$", path)
        image_id = f"vg/{pathlib.PurePosixPath(path).stem}"
        if number:
          image_id = picture_ids.visual_genome(number[1], coco_numbers)
        yield {"file": file, "photo": path, "image_id": image_id, "regions": regions}

  def records(
    self, src: SourceFolder, unit: Unit
  ) -> Iterator[SegConversation | RecordError]:
    try:
      photo = read_photo(src, _below(src, unit["photo"], "image_path"))
    except ValueError as error:
      for index, *_ in unit["regions"]:
        yield RecordError(unit["file"], index, str(error))
      return
    for index, mask, caption in unit["regions"]:
      try:
        phrase = fields.answer(caption, "caption").lower()
        rle = _read_mask(src, mask, photo)
      except ValueError as error:
        yield RecordError(unit["file"], index, str(error))
        continue
      yield one_target(
        source=self.card.name,
        id=f"train/{index}",
        photo=photo,
        image_id=unit["image_id"],
        phrase=phrase,
        rle=rle,
      )


def _regions(src, file):
  """(image_path, [index, path of the mask, caption]), RecordErrors among them."""
  for index, entry in numbered(src, file):
    try:
      path = value(entry, "image_path", str)
      if not path.strip():
        raise ValueError("image_path is empty")
      yield path, [index, value(entry, "mask", str), value(entry, "caption", str)]
    except ValueError as error:
      yield RecordError(file, index, str(error))


def _below(src, path, key):
  """The file below the source that a path of somebody's machine stands for.

  The longest end of the path that is there. Raises ValueError where none is.
  """
  parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]
  if ".." in parts:
    raise ValueError(f"{key} {path!r} leaves its folder")
  for length in range(min(len(parts), _TAIL), 0, -1):
    end = "/".join(parts[-length:])
    for folder in _FOLDERS:
      if src.is_file(folder + end):
        return folder + end
  raise ValueError(f"{key} {path!r}: no end of that path is a file below DIR or DIR/VG")


def _read_mask(src, path, photo):
  name = _below(src, path, "mask")
  try:
    mask_HW = read_class_map(src, name)
    check_size(mask_HW, photo)
    if odd := np.setdiff1d(mask_HW, (0, 255)).tolist():
      raise ValueError(f"holds the values {odd[:5]}, want 0 and 255 alone")
    if not mask_HW.any():
      raise ValueError("is empty")
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from None
  return mask_ops.encode_rle(mask_HW)
