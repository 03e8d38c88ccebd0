"""YOLO-seg: a text file for each photograph, a polygon a line, in parts of its size.

    data.yaml                    names, where the splits lie (classes.txt also does)
    images/train/a.jpg           or train/images/a.jpg, as Roboflow lays it out
    labels/train/a.txt           class x1 y1 x2 y2 ... within 0..1

A photograph without a text file shows none of the names. Converters join the pieces of
one thing by bridges, edges that are gone there and back: those are no part of it.
"""

import posixpath
import re
from collections.abc import Iterator

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.annotations import canvas, layout, names
from input_pipeline.annotations.photo import Form, LabelledPhoto
from input_pipeline.builders.builder import Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError
from miras_jax.errors import UserError

MAX_TEXT_BYTES = 32 * 2**20
YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_OVERSHOOT = 0.01  # past 0 or 1, from rounding: cut off
_ROW = re.compile(rb"\s*\d+(\s+-?[0-9.eE+-]+)+\s*$")
_SAMPLES = 5  # text files that are looked into


class YoloSeg(Form):
  name = "yolo_seg"

  def __init__(self, class_names: dict[int, str] | None = None):
    self._names = class_names

  def found(self, src: SourceFolder) -> str | None:
    texts = _texts(src)
    if not any(_has_rows(src, name) for name in texts[:_SAMPLES]):
      return None
    return f"{len(texts):,} YOLO text files"

  def units(self, src: SourceFolder) -> Iterator[Unit | RecordError]:
    self._listed(src)
    texts = layout.by_place(_texts(src))
    used = set()
    for image, split in _photographs(src):
      if isinstance(image, RecordError):
        yield image
        continue
      text = layout.belonging(texts, image)
      used.add(text)
      yield {"image": image, "labels": text} | ({"split": split} if split else {})
    for text in texts.values():
      if text not in used:
        yield RecordError(text, WHOLE_FILE, "no photograph belongs to it")

  def read(self, src: SourceFolder, unit: Unit) -> LabelledPhoto:
    listed = self._listed(src)
    data, height, width = canvas.read_photograph(src, unit["image"])
    drawing = canvas.Canvas(height, width)
    notes = _draw(src, unit["labels"], listed, drawing) if unit["labels"] else ()
    return LabelledPhoto(
      image=data,
      image_id=unit["image"],
      height=height,
      width=width,
      regions=tuple(drawing.regions),
      complete=frozenset(listed.values()),
      notes=tuple(notes),
    )

  def _listed(self, src):
    if self._names is None:
      self._names = _yaml_names(src) or names.in_folder(src)
    if self._names is None:
      listed = ", ".join((YAML_FILES[0], *names.FILES))
      raise UserError(
        f"--src={src.root}: YOLO files give numbers and no names; want one of {listed}"
        " there, or --names=FILE"
      )
    return self._names


def _texts(src):
  """Text files that belong to a photograph or lie where labels lie."""
  shown = {rest for _, rest in map(layout.place, layout.photographs(src))}
  names_ = layout.with_suffix(src, ".txt")
  return [n for n in names_ if layout.place(n)[1] in shown or _in_labels(n)]


def _in_labels(name):
  return "labels" in name.lower().split("/")[:-1] and name.split("/")[-1] not in (
    "classes.txt",
    "labels.txt",
  )


def _has_rows(src, name):
  try:
    with src.open(name) as file:
      return bool(_ROW.match(file.readline(1 << 16)))
  except (OSError, ValueError):
    return False


def _yaml(src):
  """(file, content) of the data set's YAML, (None, {}) where there is none."""
  file = src.first(*YAML_FILES)
  if file is None:
    others = [n for n in src.list(".", ".yaml", ".yml") if src.is_file(n)]
    file = others[0] if len(others) == 1 else None
  if file is None:
    return None, {}
  try:
    return file, names.load_yaml(src.read(file, names.MAX_BYTES))
  except ValueError as error:
    raise UserError(f"--src={src.root}: {file}: {error}") from None


def _yaml_names(src):
  file, content = _yaml(src)
  if "names" not in content:
    return None
  try:
    listed = names.numbered(content["names"])
  except ValueError as error:
    raise UserError(f"--src={src.root}: {file}: names: {error}") from None
  count = content.get("nc", len(listed))
  if count != len(listed):
    reason = f"nc is {str(count)[:40]}, names lists {len(listed)}"
    raise UserError(f"--src={src.root}: {file}: {reason}")
  return listed


def _photographs(src):
  """(photograph, split), or (RecordError, None) for a split that is not there. What two
  splits name, as the examples that train and validate on one folder, lies in none."""
  file, content = _yaml(src)
  photographs = layout.photographs(src)
  stated = {key: content[key] for key in layout.SPLITS if content.get(key)}
  chosen = {}  # photograph: split; None where two splits name it
  for key, value in stated.items():
    for entry in value if isinstance(value, list) else [value]:
      members = _members(src, entry, photographs)
      if members is None:
        shown = f"{key}: {str(entry)[:200]!r}"
        yield RecordError(file, key, f"{shown} is no folder or list there"), None
      for name in members or ():
        split = layout.SPLITS[key]
        chosen[name] = split if chosen.get(name, split) == split else None
  for name in photographs:
    yield name, chosen[name] if name in chosen else layout.split_of(name)


def _members(src, entry, photographs):
  """Photographs of one entry of the YAML, a folder or a list of names; None: neither.

  Written on another machine, entries may climb out of the folder (Roboflow's do) or
  begin with a root that is not here; what is left of them is looked for below `src`.
  """
  if not isinstance(entry, str):
    return None
  known = set(photographs)
  parts = [p for p in posixpath.normpath(entry.replace("\\", "/")).split("/") if p]
  for start in range(len(parts)):
    tail = "/".join(parts[start:])
    if ".." in parts[start:]:
      continue
    if tail.endswith(".txt") and src.is_file(tail):
      return list(_in_list(src, tail, known))
    inside = [name for name in photographs if name.startswith(f"{tail}/")]
    if inside:
      return inside
  return photographs if parts == ["."] else None


def _in_list(src, file, known):
  """The photographs that a text file lists, relative to the root or to anything."""
  for line in src.read(file, MAX_TEXT_BYTES).decode("utf-8", "replace").splitlines():
    parts = [
      p for p in line.strip().replace("\\", "/").split("/") if p not in ("", ".")
    ]
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    found = next((tail for tail in tails if tail in known), None)
    if found:
      yield found


def _draw(src, file, listed, drawing):
  """Adds the things of a text file; notes. Raises RecordError with file and line."""
  try:
    data = src.read(file, MAX_TEXT_BYTES).decode("utf-8-sig")
  except FileNotFoundError:
    raise RecordError(file, WHOLE_FILE, "no such file") from None
  except ValueError as error:
    raise RecordError(file, WHOLE_FILE, str(error)) from None
  notes, seen = [], set()
  for number, line in enumerate(data.splitlines(), 1):
    row = line.split()
    if not row:
      continue
    try:
      if tuple(row) in seen:
        notes.append(f"{file}:line {number}: is equal to an earlier one and dropped")
        continue
      seen.add(tuple(row))
      if not _add(drawing, row, listed):
        notes.append(f"{file}:line {number}: encloses no area and is dropped")
    except ValueError as error:
      raise RecordError(file, f"line {number}", str(error)) from None
  return notes


def _add(drawing, row, listed) -> bool:
  name = listed.get(int(row[0])) if row[0].isdecimal() and len(row[0]) < 10 else None
  if not name:
    raise ValueError(f"class {row[0][:40]!r} has no name among {len(listed)}")
  if len(row) == 5:
    raise ValueError("is a box (class, centre, size), want a polygon: YOLO-seg")
  try:
    fractions = np.array([float(value) for value in row[1:]])
  except ValueError:
    raise ValueError("holds something that is no number") from None
  if len(fractions) % 2 or len(fractions) < 6:
    raise ValueError(
      f"holds {len(fractions)} numbers, want x y of three points or more"
    )
  if not (fractions >= -_OVERSHOOT).all() or not (fractions <= 1 + _OVERSHOOT).all():
    raise ValueError("holds coordinates outside 0 to 1: YOLO's are parts of the size")
  size = drawing.height, drawing.width
  points_N2 = canvas.to_pixels(np.clip(fractions, 0, 1), *size)
  rings = [r for r in split_bridges(points_N2) if not mask_ops.is_degenerate(r)]
  return bool(rings) and drawing.add(name, drawing.rings(rings))


def split_bridges(points_N2) -> list[np.ndarray]:
  """A polygon -> its rings: cut where it goes along an edge and later back along it."""
  points = [tuple(point) for point in points_N2]
  path, open_edges, rings = [points[0]], {}, []
  for point in [*points[1:], points[0]]:
    if point == path[-1]:
      continue
    start = open_edges.get((point, path[-1]))
    if start is None:
      open_edges[path[-1], point] = len(path) - 1
      path.append(point)
      continue
    rings.append(path[start + 1 :])
    for edge in zip(path[start:], path[start + 1 :], strict=False):
      open_edges.pop(edge, None)
    del path[start + 1 :]
  return [np.array(ring) for ring in [*rings, path]]
