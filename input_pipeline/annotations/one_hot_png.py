"""One PNG for each class of a photograph, 0 or 255 (or 1), where 0 is "not this".

    masks/<photograph>_<name>.png
    masks/<photograph>/<name>.png
    masks/<name>/<photograph>.png

The names are those of the files; with a list of names only those count. A class
without a file is not in the photograph. Classes may cover each other.
"""

import collections
import posixpath
from collections.abc import Iterator

import numpy as np

from input_pipeline.annotations import canvas, layout, names
from input_pipeline.annotations.index_png import read_mask
from input_pipeline.annotations.photo import Form, LabelledPhoto
from input_pipeline.builders.builder import Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError


class OneHotPng(Form):
  name = "one_hot_png"

  def __init__(self, class_names: dict[int, str] | None = None):
    self._names = class_names

  def found(self, src: SourceFolder) -> str | None:
    masks = layout.masks(src)
    owners = _Owners(src, self._listed(src))
    count = sum(owners.of(name) is not None for name in masks)
    return f"{count:,} PNGs of one class each" if 2 * count > len(masks) else None

  def units(self, src: SourceFolder) -> Iterator[Unit | RecordError]:
    listed = self._listed(src)
    owners = _Owners(src, listed)
    masks, seen = collections.defaultdict(dict), set(listed)
    for file in layout.masks(src):
      owner = owners.of(file)
      if owner is None:
        yield RecordError(file, WHOLE_FILE, "no photograph and name belong to it")
        continue
      masks[owner[0]][owner[1]] = file
      seen.add(owner[1])
    complete = sorted(filter(names.is_thing, seen))
    for image in layout.photographs(src):
      if image not in masks:
        yield RecordError(image, WHOLE_FILE, "no mask belongs to it")
        continue
      unit = {"image": image, "masks": masks[image], "complete": complete}
      split = layout.split_of(image)
      yield unit | ({"split": split} if split else {})

  def read(self, src: SourceFolder, unit: Unit) -> LabelledPhoto:
    data, height, width = canvas.read_photograph(src, unit["image"])
    drawing = canvas.Canvas(height, width)
    for name, file in sorted(unit["masks"].items()):
      values_HW = read_mask(src, file, height, width)
      try:
        _check_values(values_HW)
        if names.is_thing(name):
          drawing.add(names.check(name), values_HW != 0)
      except ValueError as error:
        raise RecordError(file, WHOLE_FILE, str(error)) from None
    return LabelledPhoto(
      image=data,
      image_id=unit["image"],
      height=height,
      width=width,
      regions=tuple(drawing.regions),
      instances=False,
      complete=frozenset(unit["complete"]),
    )

  def _listed(self, src):
    listed = self._names or names.in_folder(src) or {}
    return frozenset(listed.values())


def _check_values(values_HW):
  high = int(values_HW.max(initial=0))
  if high and ((values_HW != 0) & (values_HW != high)).any():
    found = ", ".join(str(value) for value in np.unique(values_HW)[:6])
    raise ValueError(f"holds the values {found}, want 0 and one other (one class)")


class _Owners:
  """Whose mask a file is: the photograph and the name of the class."""

  def __init__(self, src, listed):
    self._by_place = layout.by_place(layout.photographs(src))
    self._by_rest = {rest: name for (_, rest), name in self._by_place.items()}
    self._listed = listed

  def of(self, file) -> tuple[str, str] | None:
    split, rest = layout.place(file)
    for shown, name in _readings(rest):
      image = self._by_place.get((split, shown)) if split else self._by_rest.get(shown)
      if image and (not self._listed or name in self._listed):
        return image, name
    return None


def _readings(rest):
  """(photograph, name) as the rest of a place may be read, the likeliest first."""
  folder, leaf = posixpath.split(rest)
  if folder:
    yield folder, leaf
    first, _, after = rest.partition("/")
    yield after, first
  for at in range(len(leaf) - 1, 0, -1):
    if leaf[at] == "_":
      yield posixpath.join(folder, leaf[:at]), leaf[at + 1 :]
