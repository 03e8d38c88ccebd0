"""Builds a split of a source without writing it, and small files that sources hold."""

import json

import numpy as np
from PIL import Image

from input_pipeline import image_ops, mask_ops
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import Problem, RecordError, SegConversation


def build_in_memory(builder, folder, split):
  """(records, errors and notes) of a split, in order; every unit goes through JSON."""
  card = builder.card
  src = SourceFolder(folder, homepage=card.homepage, layout=card.layout)
  assert split in builder.splits(src)
  records, errors = [], []
  for unit in builder.units(src, split):
    if isinstance(unit, RecordError):
      errors.append(unit)
      continue
    for record in builder.records(src, json.loads(json.dumps(unit))):
      odd = isinstance(record, RecordError | Problem)
      (errors if odd else records).append(record)
  for record in records:
    assert_whole(record)
  ids = [record.id for record in records]
  assert len(set(ids)) == len(ids)
  return records, errors


def assert_whole(record: SegConversation):
  """One [SEG] a target, masks of the size of the picture, turns in turn."""
  answers = "".join(text for role, text in record.turns if role == "assistant")
  assert answers.count("[SEG]") == len(record.targets)
  roles = [role for role, _ in record.turns]
  assert roles == ["user", "assistant"] * (len(roles) // 2)
  if not record.image:  # text alone
    assert (record.targets, record.image_id) == ((), "")
    return
  size = image_ops.image_size(record.image)
  for name, rle in record.targets:
    assert tuple(rle["size"]) == size
    assert bool(name) == bool(mask_ops.rle_area(rle))


def masks(record):
  """The masks of a record, decoded."""
  return [mask_ops.decode_rle(rle) for _, rle in record.targets]


def box(height, width, top, left, bottom, right):
  """mask_HW of a filled box; bottom and right are outside."""
  mask_HW = np.zeros((height, width), np.uint8)
  mask_HW[top:bottom, left:right] = 1
  return mask_HW


def polygon_of(top, left, bottom, right):
  """The polygon that COCO's rule draws as `box`."""
  return [left, top, right, top, right, bottom, left, bottom]


def write_json(path, value, encoding="utf-8"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(json.dumps(value, ensure_ascii=encoding == "utf-8").encode(encoding))


def write_photo(path, height, width, *, seed=0, exif=None, mode="RGB"):
  """A JPEG of the stored size; exif: its orientation tag."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
  image = Image.fromarray(pixels).convert(mode)
  options = {}
  if exif:
    options["exif"] = Image.Exif()
    options["exif"][0x0112] = exif
  image.save(path, "JPEG", **options)
  return path


def reasons(errors):
  """{record: reason}, with the file's name in front where it is not one list's."""
  return {error.record: error.reason for error in errors}
