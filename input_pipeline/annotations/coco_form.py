"""COCO JSON, one file a split: polygons, both run-length codes, crowds.

    annotations/instances_train2017.json + train2017/   as COCO publishes it
    train/_annotations.coco.json beside the pictures    as Roboflow exports it
    any.json + a folder of pictures

Each annotation is one thing. A photograph without annotations shows none of the
categories, as everywhere where COCO files are trained on; of a federated file (LVIS)
that holds for the categories that the photograph lists as absent or complete.

Parts: an annotation may name the one that it is a part of by its id, as `part_of` or,
as PACO does, as `obj_ann_id`.
"""

import posixpath
from collections.abc import Iterator

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.annotations import canvas, layout, names
from input_pipeline.annotations.photo import Form, LabelledPhoto
from input_pipeline.builders import grouping
from input_pipeline.builders.builder import Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError

# The supervision library gives all its categories this one, and writes every mask with
# a hole or of several pieces as a crowd.
NO_CROWDS = "common-objects"
_WHOLE = ("part_of", "obj_ann_id")  # PACO's objects name themselves
_LISTED = 100  # images that are not there, and the like, named one by one


class Coco(Form):
  name = "coco"

  def found(self, src: SourceFolder) -> str | None:
    files = _files(src)
    listed = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
    return f"COCO JSON {listed}" if files else None

  def units(self, src: SourceFolder) -> Iterator[Unit | RecordError]:
    photographs = _Photographs(src)
    for file in _files(src):
      try:
        yield from _units_of(src, file, photographs)
      except RecordError as error:  # the file breaks off: what came before it counts
        yield error

  def read(self, src: SourceFolder, unit: Unit) -> LabelledPhoto:
    data, height, width = canvas.read_photograph(src, unit["image"])
    drawing = canvas.Canvas(height, width)
    notes = []
    try:
      if None not in unit["size"]:
        canvas.check_size(unit["size"], height, width)
      _check_pixels(unit["annotations"], drawing)
      regions = {}
      for annotation in unit["annotations"]:
        notes += _add(drawing, annotation, regions)
      notes += _join(drawing, unit["annotations"], regions)
    except ValueError as error:
      raise RecordError(unit["file"], unit["image"], str(error)) from None
    return LabelledPhoto(
      image=data,
      image_id=unit["image"],
      height=height,
      width=width,
      regions=tuple(drawing.regions),
      complete=frozenset(unit["complete"]),
      notes=tuple(f"{unit['file']}:{unit['image']}: {note}" for note in notes),
    )


def _files(src):
  """The files with masks: COCO's folder also holds key points and captions."""
  kinds = layout.json_kinds(src).items()
  files = [name for name, kind in kinds if kind == "coco"]
  instances = [n for n in files if layout.stem(n).startswith("instances")]
  return instances or files


def _units_of(src, file, photographs):
  content = _Content(file)
  with grouping.grouped(content.sorted(layout.elements(src, file))) as groups:
    yield from content.errors
    categories, above = content.categories()
    split = layout.split_of(file) or _split_in(layout.stem(file))
    for key in content.images:
      try:
        (row, *others) = groups[f"image {key}"]
        if others:
          raise ValueError("the id is given to several images")
        image = photographs.of(file, row.get("file_name"))
        size = [_side(row, "height"), _side(row, "width")]
      except ValueError as error:
        yield RecordError(file, f"image {key[:40]}", str(error))
        continue
      things = groups[f"thing {key}"]
      unit = {
        "image": image,
        "file": file,
        "size": size,
        "annotations": [_thing(t, categories, above == {NO_CROWDS}) for t in things],
        "complete": _complete(row, categories, above),
      }
      stated = split or layout.split_of(image)
      yield unit | ({"split": stated} if stated else {})
  yield from content.orphans()


class _Content:
  """What a COCO file holds, sorted in one pass over it, in whatever order it comes."""

  def __init__(self, file):
    self._file = file
    self._categories = []
    self.images = {}  # ids in their order
    self._used = {}  # image id: the first annotation of it
    self.errors = []

  def sorted(self, elements):
    """(key, value) of images and annotations; the rest is kept here."""
    for key, row in elements:
      if key not in ("images", "annotations", "categories"):
        continue
      if not isinstance(row, dict):
        if len(self.errors) < _LISTED:
          reason = f"{key} holds a {type(row).__name__}, want objects"
          self.errors.append(RecordError(self._file, WHOLE_FILE, reason))
      elif key == "categories":
        self._categories.append(row)
      elif key == "images":
        self.images[str(row.get("id"))] = None
        yield f"image {row.get('id')}", row
      else:
        kept = ("id", "category_id", "segmentation", "iscrowd", *_WHOLE)
        self._used.setdefault(str(row.get("image_id")), row.get("id"))
        yield f"thing {row.get('image_id')}", {k: row.get(k) for k in kept}

  def categories(self):
    """({id: name}, names that are above another one).

    Roboflow's files have a root category that no annotation uses: a photograph without
    an "animals" is not one without dogs.
    """
    categories, above = {}, set()
    for row in self._categories:
      try:
        categories[str(row.get("id"))] = names.check(row.get("name"))
      except ValueError as error:
        shown = f"category {str(row.get('id'))[:40]}"
        raise RecordError(self._file, shown, str(error)) from None
      if row.get("supercategory") != row.get("name"):
        above.add(str(row.get("supercategory")))
    return categories, above

  def orphans(self):
    """Errors for annotations whose image the file does not list."""
    lost = [
      (key, number) for key, number in self._used.items() if key not in self.images
    ]
    for key, number in lost[:_LISTED]:
      reason = f"image_id {key[:40]} is none of the images"
      yield RecordError(self._file, f"annotation {str(number)[:40]}", reason)
    if (more := len(lost) - _LISTED) > 0:
      reason = f"annotations of {more:,} more images that are not listed"
      yield RecordError(self._file, WHOLE_FILE, reason)


def _thing(row, categories, no_crowds):
  """What `read` needs of an annotation."""
  category = str(row["category_id"])
  return {
    "id": row["id"],
    "name": categories.get(category),
    "category": category[:40],
    "segmentation": row["segmentation"],
    "crowd": bool(row["iscrowd"]) and not no_crowds,
  } | _whole_of(row)


def _whole_of(row):
  """{"part_of": id of the annotation that one is a part of}, {} where none is."""
  found = next((row[key] for key in _WHOLE if row[key] is not None), None)
  return {} if found in (None, row["id"]) else {"part_of": found}


def _complete(row, categories, above):
  """Names of which everything is labelled in a photograph."""
  absent = row.get("neg_category_ids")
  if not isinstance(absent, list):
    return sorted(set(categories.values()) - above)
  # LVIS: only the categories of the photograph were looked for, some of them not to
  # the last one; which are present is seen from its annotations.
  return sorted({categories[str(i)] for i in absent if str(i) in categories})


def _split_in(stem):
  """The split that a file's name states: instances_val2017, train_coco."""
  parts = stem.lower().replace("-", "_").replace(".", "_").split("_")
  stated = (layout.SPLITS.get(part.rstrip("0123456789")) for part in parts)
  return next((split for split in stated if split), None)


def _side(row, key):
  value = row.get(key)
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
    raise ValueError(f"{key} is {str(value)[:40]!r}, want a whole number")
  return value


class _Photographs:
  """Finds a photograph by the `file_name` of a COCO file."""

  def __init__(self, src):
    names_ = layout.photographs(src)
    self._all = set(names_)
    self._by_base = {}
    for name in names_:
      self._by_base.setdefault(posixpath.basename(name), []).append(name)

  def of(self, file, name) -> str:
    if not isinstance(name, str) or not name.strip():
      raise ValueError(f"file_name {str(name)[:40]!r} is no name")
    name = posixpath.normpath(name.replace("\\", "/"))
    near = posixpath.join(posixpath.dirname(file), name)
    for candidate in (near, name, f"images/{name}"):
      if candidate in self._all:
        return candidate
    same = self._by_base.get(posixpath.basename(name), [])
    fitting = [n for n in same if n.endswith(f"/{name}")] or same
    split = layout.split_of(file) or _split_in(layout.stem(file))
    if len(fitting) > 1 and split:
      fitting = [n for n in fitting if split in (layout.split_of(n), _folder_split(n))]
    if len(fitting) != 1:
      what = "several photographs have that name" if fitting else "no such photograph"
      raise ValueError(f"file_name {name[:200]!r}: {what}")
    return fitting[0]


def _folder_split(name):
  """The split of COCO's own folders: train2017/a.jpg."""
  return _split_in(posixpath.basename(posixpath.dirname(name)))


def _check_pixels(annotations, drawing):
  parts = [a["segmentation"] for a in annotations]
  flat = [p for part in parts if isinstance(part, list) for p in part]
  numbers = [n for part in flat if isinstance(part, list) for n in part]
  if numbers and all(isinstance(n, int | float) for n in numbers):
    canvas.check_pixels(np.array(numbers, float), drawing.height, drawing.width)


def _join(drawing, annotations, regions):
  """Ties parts to what they are a part of; yields notes. regions: {id: number} of what
  was drawn."""
  for annotation in annotations:
    part, whole = str(annotation["id"]), str(annotation.get("part_of", ""))
    if part in regions and whole in regions:
      drawing.join(regions[part], regions[whole])
    elif whole and part in regions:
      yield f"annotation {part} is a part of {whole[:40]}, which is not in this image"


def _add(drawing, annotation, regions):
  """Draws one annotation; yields notes. Raises ValueError that names it."""
  shown = f"annotation {annotation['id']}"
  try:
    if annotation["name"] is None:
      raise ValueError(f"category_id {annotation['category']} is no category")
    mask_HW = _mask(drawing, annotation["segmentation"])
  except ValueError as error:
    raise ValueError(f"{shown}: {error}") from None
  if mask_HW is None:
    yield f"{shown} is dropped: its points enclose no area"
  elif not drawing.add(annotation["name"], mask_HW, crowd=annotation["crowd"]):
    yield f"{shown} is dropped: it covers no pixel"
  else:
    regions[str(annotation["id"])] = len(drawing.regions) - 1


def _mask(drawing, segmentation):
  """mask_HW uint8 of a segmentation, None where its polygons enclose nothing."""
  if not segmentation:
    raise ValueError("is a box without a mask (no segmentation), want masks")
  if isinstance(segmentation, dict):
    size = segmentation.get("size")
    if not isinstance(size, list) or len(size) != 2:
      raise ValueError("an RLE needs size [height, width] and counts")
    canvas.check_size(size, drawing.height, drawing.width)
    drawing.spend(4 * drawing.height * drawing.width)
    return mask_ops.decode_rle(segmentation)
  if not isinstance(segmentation, list):
    raise ValueError(f"segmentation is a {type(segmentation).__name__}")
  polygons = [canvas.points_of(part) for part in segmentation]
  if any(len(polygon) == 2 for polygon in polygons):
    raise ValueError("segmentation of 4 numbers is a box, want a polygon or an RLE")
  polygons = [p for p in polygons if not mask_ops.is_degenerate(p)]
  return drawing.polygons(polygons) if polygons else None
