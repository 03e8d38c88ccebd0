"""labelme: a JSON file for each photograph, beside it or in a folder of its own.

One thing is what shares a label and a group_id; a shape without a group is a thing of
its own. Things may cover each other: a later shape takes nothing from an earlier one.

Holes. labelme has no shape for them, its parts only add up. So a shape of a group is
one where adding it would be without effect or without sense:

* it is called "hole", in its `description`, its `flags` or, in a group with other
  labels, its label (without a group that label is a name like any other), or
* it lies inside another shape of its thing and does not touch that one's outline, as
  exporters write the inner contours of a mask.

The outline of a hole belongs to the thing, as the outline of every shape does.

Parts. A shape whose `description` is "part of LABEL" is a part of the thing of that
label in its group, or of the only one in the file.
"""

import posixpath
from collections.abc import Iterator

import cv2
import numpy as np

from input_pipeline import labelme, mask_ops
from input_pipeline.annotations import canvas, layout, names
from input_pipeline.annotations.photo import Form, LabelledPhoto
from input_pipeline.builders.builder import Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.labelme_shapes import normal, short
from input_pipeline.records import WHOLE_FILE, RecordError

MAX_FILE_BYTES = 256 * 2**20  # it may hold the photograph, too
HOLE = "hole"
PART = "part of "
_ENCLOSING = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask")
_SHAPE_WORK = 4  # a pixel of the photograph


class Labelme(Form):
  """`names`: all labels that were looked for in every photograph, where that is known;
  labelme itself does not say."""

  name = "labelme"

  def __init__(self, class_names: dict[int, str] | None = None):
    self._names = class_names

  def found(self, src: SourceFolder) -> str | None:
    count = len(self._files(src))
    return f"{count:,} labelme files" if count else None

  def units(self, src: SourceFolder) -> Iterator[Unit | RecordError]:
    listed = self._names or names.in_folder(src) or {}
    complete = sorted(filter(names.is_thing, listed.values()))
    photographs = _Photographs(src)
    used = set()
    for file in self._files(src):
      try:
        image = photographs.of(file)
      except RecordError as error:
        yield error
        continue
      used.add(image)
      unit = {"image": image, "labels": file, "complete": complete}
      split = layout.split_of(image) or layout.split_of(file)
      yield unit | ({"split": split} if split else {})
    for name in photographs.names:
      if name not in used:
        yield RecordError(name, WHOLE_FILE, "no labelme file belongs to it")

  def read(self, src: SourceFolder, unit: Unit) -> LabelledPhoto:
    data, height, width = canvas.read_photograph(src, unit["image"])
    file = unit["labels"]
    document = _document(src, file)
    try:
      annotation = labelme.parse_annotation(document)
      labelme.check_size(annotation, height, width)
      things, holes = _things(annotation.shapes, document["shapes"])
      drawing = canvas.Canvas(height, width)
      _check_pixels(annotation.shapes, drawing)
      notes, regions = [*annotation.notes], {}
      for (label, group), shapes in things.items():
        mask_HW, said = _thing_mask(drawing, shapes, holes.get(group, ()))
        notes += said
        if drawing.add(names.check(label), mask_HW):
          regions[label, group] = len(drawing.regions) - 1
        else:
          notes.append(f"{shapes[0].name} covers no pixel and is dropped")
      notes += _join(drawing, things, regions, document["shapes"])
    except ValueError as error:
      raise RecordError(file, WHOLE_FILE, str(error)) from None
    return LabelledPhoto(
      image=data,
      image_id=unit["image"],
      height=height,
      width=width,
      regions=tuple(drawing.regions),
      complete=frozenset(unit["complete"]),
      notes=tuple(f"{file}: {note}" for note in notes),
    )

  def _files(self, src):
    return [n for n, kind in layout.json_kinds(src).items() if kind == "labelme"]


class _Photographs:
  """The photograph of a labelme file: the one of its stem, else the one it names."""

  def __init__(self, src):
    self._src = src
    self.names = layout.photographs(src)
    self._all = set(self.names)
    self._by_place, self._by_stem = {}, {}
    for name in self.names:
      self._by_place.setdefault(layout.place(name), []).append(name)
      self._by_stem.setdefault(layout.stem(name), []).append(name)

  def of(self, file) -> str:
    near = self._by_place.get(layout.place(file), ())
    if len(near) == 1:
      return near[0]
    stated = self._stated(file)
    for candidate in (stated, posixpath.join(posixpath.dirname(file), stated)):
      candidate = posixpath.normpath(candidate)
      if candidate in self._all:
        return candidate
    stem = layout.stem(stated)
    same = [n for n in self._by_stem.get(stem, ()) if n.endswith(stated)]
    same = same or self._by_stem.get(stem, ()) or self._by_stem.get(layout.stem(file))
    if same and len(same) == 1:
      return same[0]
    reason = "several photographs fit" if same else "no such photograph"
    raise RecordError(file, WHOLE_FILE, f"imagePath {stated[:200]!r}: {reason}")

  def _stated(self, file):
    stated = _document(self._src, file).get("imagePath")
    return stated.replace("\\", "/") if isinstance(stated, str) else ""


def _document(src, file):
  document = src.json(file, fallback_encoding="cp1252", limit=MAX_FILE_BYTES)
  if not isinstance(document, dict):
    kind = type(document).__name__
    raise RecordError(file, WHOLE_FILE, f"holds a {kind}, want a labelme object")
  return document


def _things(shapes, raw):
  """({(label, group): shapes}, {group: shapes that are marked as holes})."""
  groups = {}
  for shape in shapes:
    groups.setdefault(_group(raw[shape.index]), []).append(shape)
  things, holes = {}, {}
  for group, members in groups.items():
    if group is None:
      things |= {(s.label, ("alone", s.index)): [s] for s in members}
      continue
    marked = [s for s in members if _is_marked(s, raw[s.index], members)]
    holes[group] = marked
    for shape in members:
      if shape not in marked:
        things.setdefault((shape.label, group), []).append(shape)
  for shape in groups.get(None, ()):
    if _says_hole(raw[shape.index]):
      raise ValueError(
        f"{shape.name} is marked as a hole and has no group_id that says of what"
      )
  return things, holes


def _group(raw):
  group = raw.get("group_id")
  return group if isinstance(group, int | str) else None


def _is_marked(shape, raw, members):
  others = {s.key for s in members} - {HOLE}
  return _says_hole(raw) or bool(shape.key == HOLE and others)


def _says_hole(raw):
  description, flags = raw.get("description"), raw.get("flags")
  if isinstance(description, str) and description.strip().casefold() == HOLE:
    return True
  return isinstance(flags, dict) and any(
    value is True and str(key).casefold() == HOLE for key, value in flags.items()
  )


def _join(drawing, things, regions, raw):
  """Ties parts to what they are a part of; yields notes. regions: {key of `things`:
  number} of what was drawn."""
  by_label = {}
  for key in regions:
    by_label.setdefault(normal(key[0]), []).append(key)
  for key in regions:
    said = [_part_of(raw[shape.index]) for shape in things[key]]
    label = next(filter(None, said), "")
    fitting = [k for k in by_label.get(label, ()) if k != key]
    near = [k for k in fitting if k[1] == key[1]] or fitting
    if len(near) == 1:
      drawing.join(regions[key], regions[near[0]])
    elif label:
      yield (
        f"{things[key][0].name} is described as a part of {short(label)}, of which"
        f" there are {len(near)}; its group_id could say which one is meant"
      )


def _part_of(raw):
  """The label after "part of" in a shape's description, "" without one."""
  description = raw.get("description")
  text = normal(description) if isinstance(description, str) else ""
  return text.removeprefix(PART).strip() if text.startswith(PART) else ""


def _check_pixels(shapes, drawing):
  points = [s.points for s in shapes if not s.defect and s.kind != "mask"]
  if points:
    canvas.check_pixels(np.concatenate(points), drawing.height, drawing.width)


def _thing_mask(drawing, shapes, cuts):
  """Mask of one thing -> (mask_HW uint8, notes); its largest shape is drawn first."""
  notes = [
    f"{s.name} is dropped: {s.degenerate}" for s in [*shapes, *cuts] if s.degenerate
  ]
  drawn = [(s, _draw(drawing, s)) for s in shapes if not s.degenerate]
  if len(drawn) == 1 and not cuts:  # most things; the rest costs many passes
    return drawn[0][1], notes
  drawn.sort(key=lambda item: -int(item[1].sum()))
  mask_HW = np.zeros((drawing.height, drawing.width), np.uint8)
  within_HW = mask_HW  # where a shape is a hole: inside an outline, none touched
  for shape, filled_HW in drawn:
    inside_HW = _inside(shape, filled_HW)
    if shape.kind in _ENCLOSING and not (filled_HW & (1 - within_HW)).any():
      notes.append(f"{shape.name} lies inside its thing and is taken as a hole")
      mask_HW = mask_HW & (1 - (filled_HW if shape.kind == "mask" else inside_HW))
      within_HW = within_HW & mask_HW
    else:
      mask_HW = mask_HW | filled_HW
      within_HW = within_HW | inside_HW
  for shape in cuts:
    if not shape.degenerate:
      filled_HW = _draw(drawing, shape)
      cut_HW = filled_HW if shape.kind == "mask" else _inside(shape, filled_HW)
      mask_HW = mask_HW & (1 - cut_HW)
  return mask_HW, notes


def _draw(drawing, shape):
  size = drawing.height, drawing.width
  if not shape.defect and shape.kind in _ENCLOSING:
    outline = mask_ops.outline(shape.kind, shape.points)
    drawing.spend(mask_ops.raster_work([outline], *size))
  drawing.spend(_SHAPE_WORK * drawing.height * drawing.width)
  return labelme.shape_mask(shape, *size)


def _inside(shape, filled_HW):
  """A filled shape without its outline; nothing of a line or a point."""
  if shape.kind not in _ENCLOSING:
    return np.zeros_like(filled_HW)
  if shape.kind == "mask":
    return cv2.erode(filled_HW, np.ones((3, 3), np.uint8))
  edge_HW = np.zeros_like(filled_HW)
  outline_N2 = np.trunc(mask_ops.outline(shape.kind, shape.points)).astype(np.int32)
  cv2.polylines(edge_HW, [outline_N2], True, 1, 1)
  return filled_HW & (1 - edge_HW)
