"""Tiny photographs drawn by code, and how tests read their labels back."""

import json
import pathlib

import cv2
import numpy as np
from PIL import Image

from input_pipeline import mask_ops
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import RecordError

HEIGHT, WIDTH = 30, 40
DOG = ((3, 4), (15, 4), (15, 20), (3, 20))
CAT = ((20, 8), (35, 8), (27, 25))
HAT = ((6, 6), (10, 6), (10, 10), (6, 10))  # inside the dog


def drawn(*polygons, height=HEIGHT, width=WIDTH):
  """mask_HW of the union of polygons, outline and filling."""
  mask_HW = np.zeros((height, width), np.uint8)
  for polygon in polygons:
    points = np.array(polygon, np.int32)
    cv2.fillPoly(mask_HW, [points], 1)
    cv2.polylines(mask_HW, [points], True, 1, 1)
  return mask_HW


def photo(path, *, height=HEIGHT, width=WIDTH, turn=1, seed=0):
  """Writes a photograph; turn: its EXIF orientation."""
  pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = turn
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(pixels)
  image.save(path, exif=exif) if turn != 1 else image.save(path)


def write_json(path, value):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value), encoding="utf-8")


def write_text(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text, encoding="utf-8")


def write_png(path, values, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(values).save(path, **options)


def read(form, folder):
  """({photograph: LabelledPhoto}, [line of each defect]) of a folder."""
  src = SourceFolder(pathlib.Path(folder))
  photos, lines = {}, []
  for unit in form.units(src):
    if isinstance(unit, RecordError):
      lines.append(str(unit))
      continue
    try:
      unit = json.loads(json.dumps(unit))
      photos[unit["image"]] = form.read(src, unit)
    except RecordError as error:
      lines.append(str(error))
  return photos, lines


def only(form, folder):
  """The one photograph of a folder without defects."""
  photos, lines = read(form, folder)
  assert not lines
  (photo_,) = photos.values()
  return photo_


def defect(form, folder):
  """The line of the one defect of a folder without a usable photograph."""
  photos, lines = read(form, folder)
  assert not photos
  (line,) = lines
  return line


def splits(form, folder):
  """{photograph: split that the files state}."""
  src = SourceFolder(pathlib.Path(folder))
  return {unit["image"]: unit.get("split") for unit in form.units(src)}


def masks(photo_):
  """[(name, mask_HW)] of the regions, in order."""
  return [(r.name, mask_ops.decode_rle(r.rle)) for r in photo_.regions]


def assert_masks(photo_, *expected):
  """The regions are the (name, mask_HW) of `expected`, pixel for pixel."""
  found = masks(photo_)
  assert [name for name, _ in found] == [name for name, _ in expected]
  for (name, mask_HW), (_, wanted_HW) in zip(found, expected, strict=True):
    np.testing.assert_array_equal(mask_HW, wanted_HW, err_msg=name)
