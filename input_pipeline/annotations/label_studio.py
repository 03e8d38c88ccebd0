"""Label Studio's JSON export: a list of tasks, coordinates in percent of the size.

Read are polygons, rectangles, ellipses and brushes, with the labels of the same result
or of another one of its id. Of several annotations of a task the one marked as ground
truth counts, else the latest; cancelled ones and predictions never do. A result with
several labels is a thing of each of these names.
"""

import posixpath
import re
import urllib.parse
from collections.abc import Iterator

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.annotations import brush_rle, canvas, layout, names
from input_pipeline.annotations.photo import Form, LabelledPhoto
from input_pipeline.builders.builder import Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import RecordError

# Results that mark no area: answers about the picture as a whole, and points.
_NO_AREA = frozenset(
  "choices textarea rating number taxonomy datetime pairwise ranker relation keypoint"
  " keypointlabels labels".split()
)
_SHAPES = ("polygon", "rectangle", "ellipse", "brush")
_HASH = re.compile(r"^[0-9a-f]{8}-")  # before the name of an uploaded file
_ELLIPSE_POINTS = 360


class LabelStudio(Form):
  name = "label_studio"

  def __init__(self, class_names: dict[int, str] | None = None):
    self._names = class_names

  def found(self, src: SourceFolder) -> str | None:
    files = self._files(src)
    return f"Label Studio export {', '.join(files[:3])}" if files else None

  def units(self, src: SourceFolder) -> Iterator[Unit | RecordError]:
    listed = self._names or names.in_folder(src) or {}
    complete = sorted(filter(names.is_thing, listed.values()))
    photographs = _Photographs(src)
    for file in self._files(src):
      try:
        for number, (_, task) in enumerate(layout.elements(src, file)):
          unit = _unit(file, f"task {_shown(task, number)}", task, photographs)
          yield unit if isinstance(unit, RecordError) else unit | {"complete": complete}
      except RecordError as error:  # the file breaks off: what came before it counts
        yield error

  def read(self, src: SourceFolder, unit: Unit) -> LabelledPhoto:
    data, height, width = canvas.read_photograph(src, unit["image"])
    drawing = canvas.Canvas(height, width)
    notes = []
    try:
      for result, labels in _labelled(unit["results"]):
        notes += _add(drawing, result, labels)
    except ValueError as error:
      raise RecordError(unit["file"], unit["task"], str(error)) from None
    return LabelledPhoto(
      image=data,
      image_id=unit["image"],
      height=height,
      width=width,
      regions=tuple(drawing.regions),
      complete=frozenset(unit["complete"]),
      notes=tuple(f"{unit['file']}:{unit['task']}: {note}" for note in notes),
    )

  def _files(self, src):
    return [n for n, kind in layout.json_kinds(src).items() if kind == self.name]


def _shown(task, number):
  value = task.get("id") if isinstance(task, dict) else None
  return value if isinstance(value, int) else f"number {number}"


def _unit(file, shown, task, photographs):
  """The unit of a task, or the RecordError that says why there is none."""
  try:
    results = _results(task)
    image = photographs.of(task)
  except ValueError as error:
    return RecordError(file, shown, str(error))
  unit = {"image": image, "results": results, "file": file, "task": shown}
  split = layout.split_of(image)
  return unit | ({"split": split} if split else {})


def _results(task):
  if not isinstance(task, dict):
    raise ValueError(f"is a {type(task).__name__}, want an object")
  annotation = _chosen(task)
  results = annotation.get("result")
  if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
    raise ValueError("an annotation has no list 'result'")
  for result in results:
    if result.get("image_rotation"):
      raise ValueError(
        f"the picture was turned by {result['image_rotation']} degrees while it was"
        " labelled (image_rotation); turn the file itself and label it anew"
      )
  return results


def _chosen(task):
  """The annotation that counts. Raises ValueError where there is none."""
  done = task.get("annotations", task.get("completions"))
  done = [a for a in done if isinstance(a, dict)] if isinstance(done, list) else []
  kept = [a for a in done if not a.get("was_cancelled")]
  if not kept:
    what = f"its {len(done)} annotations were cancelled" if done else "is not annotated"
    raise ValueError(f"{what}; predictions do not count")
  return max(
    enumerate(kept),
    key=lambda item: (
      bool(item[1].get("ground_truth")),
      str(item[1].get("created_at") or ""),
      item[0],
    ),
  )[1]


class _Photographs:
  """Finds the photograph of a task: uploads, local files, bucket and web addresses."""

  def __init__(self, src):
    self._by_base = {}
    for name in layout.photographs(src):
      self._by_base.setdefault(posixpath.basename(name), []).append(name)

  def of(self, task) -> str:
    data = task.get("data")
    if not isinstance(data, dict):
      raise ValueError("has no 'data' with the address of its picture")
    texts = [v for v in data.values() if isinstance(v, str)]
    if isinstance(task.get("file_upload"), str):
      texts.append(task["file_upload"])
    for text in sorted(texts, key=lambda t: t != data.get("image")):
      found = self._find(_path(text))
      if len(found) > 1:
        raise ValueError(f"{text[:200]!r}: several photographs have that name")
      if found:
        return found[0]
    shown = texts[0][:200] if texts else "no file"
    raise ValueError(f"data names {shown!r}: no such photograph")

  def _find(self, path):
    base = posixpath.basename(path)
    for name in (base, _HASH.sub("", base)):
      same = self._by_base.get(name, [])
      if len(same) > 1:  # the one whose folders are those of the address
        tails = [len(posixpath.commonprefix([n[::-1], path[::-1]])) for n in same]
        same = [n for n, t in zip(same, tails, strict=True) if t == max(tails)]
      if same:
        return same
    return []


def _path(text):
  """The path in an address: of `?d=`, else what comes before a question mark."""
  try:
    parts = urllib.parse.urlsplit(text)
  except ValueError:
    return text
  inner = urllib.parse.parse_qs(parts.query).get("d")
  path = inner[0] if inner else urllib.parse.unquote(parts.path)
  return path.replace("\\", "/")


def _labelled(results):
  """(result with an area, its labels); several results may share an id."""
  labels = {}
  for result in results:
    value = result.get("value")
    for key, texts in value.items() if isinstance(value, dict) else ():
      if key.endswith("labels") and isinstance(texts, list):
        labels.setdefault(_key(result), []).extend(texts)
  seen = set()
  for result in results:
    kind = str(result.get("type"))
    if kind in _NO_AREA or _key(result) in seen:
      continue
    seen.add(_key(result))
    yield result, labels.get(_key(result), [])


def _key(result):
  return str(result.get("id", id(result)))


def _add(drawing, result, labels):
  """Draws one result; yields notes. Raises ValueError that names it."""
  shown = f"result {str(result.get('id'))[:40]}"
  try:
    stated = result.get("original_height"), result.get("original_width")
    if None not in stated:
      canvas.check_size(stated, drawing.height, drawing.width)
    if not labels:
      raise ValueError("has no label")
    mask_HW = _mask(drawing, str(result.get("type")), result.get("value"))
    for label in dict.fromkeys(names.check(label) for label in labels):
      if not drawing.add(label, mask_HW):
        yield f"{shown} covers no pixel and is dropped"
  except ValueError as error:
    raise ValueError(f"{shown}: {error}") from None


def _mask(drawing, kind, value):
  kind = kind.removesuffix("labels")
  if kind not in _SHAPES or not isinstance(value, dict):
    raise ValueError(f"type {kind[:40]!r} is none of {', '.join(_SHAPES)}")
  if kind == "brush":
    drawing.spend(20 * drawing.height * drawing.width)
    return brush_rle.decode(value.get("rle"), drawing.height, drawing.width)
  outline_N2 = _OUTLINES[kind](value, drawing)
  if mask_ops.is_degenerate(outline_N2):
    return np.zeros((drawing.height, drawing.width), np.uint8)
  return drawing.polygons([outline_N2])


def _polygon(value, drawing):
  points = value.get("points")
  if not isinstance(points, list) or not all(isinstance(p, list) for p in points):
    raise ValueError("has no list 'points'")
  if not all(len(point) == 2 for point in points):
    raise ValueError("holds a point that is not [x, y]")
  flat = canvas.points_of([number for point in points for number in point])
  return canvas.to_pixels(flat / 100, drawing.height, drawing.width)


def _rectangle(value, drawing):
  """Turned clockwise about its corner at the top left."""
  (left_top, size) = _numbers(value, drawing, "x", "y", "width", "height")
  corners_42 = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size
  return _settled(left_top + corners_42 @ _turn(value).T)


def _ellipse(value, drawing):
  """Turned clockwise about its centre."""
  centre, radii = _numbers(value, drawing, "x", "y", "radiusX", "radiusY")
  angle = np.arange(_ELLIPSE_POINTS) * (2 * np.pi / _ELLIPSE_POINTS)
  circle_N2 = np.stack([np.cos(angle), np.sin(angle)], axis=1)
  # To pixel centres first, as for circles, because the raster rule truncates.
  return np.rint(centre + (circle_N2 * radii) @ _turn(value).T)


def _numbers(value, drawing, *keys):
  """Four numbers in percent -> two points in pixels."""
  flat = canvas.points_of([value.get(key) for key in keys])
  return canvas.to_pixels(flat / 100, drawing.height, drawing.width)


def _turn(value):
  degrees = value.get("rotation") or 0
  angle = np.deg2rad(canvas.points_of([degrees, 0])[0, 0])
  return np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])


def _settled(points_N2):
  return canvas.to_pixels(points_N2, 1, 1)


_OUTLINES = {"polygon": _polygon, "rectangle": _rectangle, "ellipse": _ellipse}
