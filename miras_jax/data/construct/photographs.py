"""The photographs to talk about: in a folder, with labels of any tool or without."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable

from input_pipeline import image_ops, safe_files
from input_pipeline.annotations import canvas, find, layout
from input_pipeline.annotations import names as class_names
from input_pipeline.annotations.photo import Region
from input_pipeline.builders import split_by_photograph
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.narrate.things import make_scene
from input_pipeline.prist_folders import annotation_name
from input_pipeline.records import WHOLE_FILE, Problem, RecordError
from miras_jax import drawing
from miras_jax.data.construct.measures import Measures
from miras_jax.data.construct.stages import Subject
from miras_jax.errors import UserError
from miras_jax.llm.request import Picture

MIN_AREA = 0.001  # share of a photograph below which nobody asks for a thing
WRITTEN = ("images", "masks", "trees")  # folders of a data set
SIDE = 768  # pixels of the longer side that a model is shown


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A photograph. data: its bytes; regions: () without masks; look: for the splits."""

  subject: Subject
  data: bytes
  height: int
  width: int
  regions: tuple[Region, ...]
  look: split_by_photograph.Photograph
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Photographs:
  """names: of the files below `images`, in order. load(name) raises RecordError.
  problems: what cannot be used at all."""

  names: tuple[str, ...]
  load: Callable[[str], Loaded]
  problems: tuple[Problem, ...]
  masked: bool


def check_apart(images, masks, out) -> None:
  """UserError where what is written to `out` would be written over, or read as, what
  it is made from. A folder inside --images is passed over when those are read."""
  inputs = {"--images": images} | ({"--masks": masks} if masks else {})
  out = os.path.realpath(out)
  for option, path in inputs.items():
    _check_folder(option, path)
    place = os.path.realpath(path)
    written = [os.path.join(out, name) for name in WRITTEN]
    if place == out or any(_is_inside(place, folder) for folder in written):
      raise UserError(
        f"--out={out}: would be written into {option}={path}; name another folder"
      )
  if masks and _common(images, masks) == out:
    raise UserError(
      f"--out={out}: holds --images and --masks, and all its files are read; name"
      " another folder, e.g. one inside it"
    )


def _is_inside(path, folder):
  return os.path.commonpath([path, folder]) == folder


def open_photographs(images, masks, *, form, names, wordings) -> Photographs:
  """The photographs of --images; with --masks what is labelled in them, too."""
  _check_folder("--images", images)
  if not masks:
    return _without_masks(SourceFolder(images))
  _check_folder("--masks", masks)
  root = _common(images, masks)
  src = SourceFolder(root)
  listed = class_names.from_path(names) if names else None
  reader = find.make_form(form, listed) if form else find.find_form(src, listed)
  below = os.path.relpath(os.path.realpath(images), os.path.realpath(root))
  prefix = "" if below == "." else f"{below.replace(os.sep, '/')}/"
  units, problems = {}, []
  for unit in reader.units(src):
    if isinstance(unit, RecordError):
      problems.append(unit.problem)
    elif unit["image"].startswith(prefix):
      units[unit["image"].removeprefix(prefix)] = unit
  load = functools.partial(_load_labelled, src, reader, units, wordings)
  return _named(src, units, load, problems, masked=True)


def _without_masks(src):
  load = functools.partial(_load_plain, src)
  return _named(src, layout.photographs(src), load, [], masked=False)


def _named(src, names, load, problems, masked):
  """Photographs whose files of masks have different names."""
  kept = {}
  for name in sorted(names):
    if not safe_files.is_text(name):
      reason = "its name is not UTF-8; rename the file"
      problems.append(Problem(name, WHOLE_FILE, reason))
      continue
    labels = annotation_name(name).casefold()
    if other := kept.get(labels):
      reason = f"its annotation would have the name of that of {other}; rename it"
      problems.append(Problem(name, WHOLE_FILE, reason))
    else:
      kept[labels] = name
  if not kept:
    raise (UserError(str(problems[0])) if problems else src.missing("photograph"))
  return Photographs(tuple(kept.values()), load, tuple(problems), masked)


def _check_folder(option, path):
  if not pathlib.Path(path).is_dir():
    raise UserError(f"{option}={path}: no such folder")


def _common(images, masks):
  """The folder that both lie in, or the one that holds the other."""
  one, other = (os.path.realpath(path) for path in (images, masks))
  root = os.path.commonpath([one, other])
  if root not in (one, other, os.path.dirname(one)) or root == os.sep:
    raise UserError(
      f"--masks={masks}: want a folder beside --images={images} or inside it, so that"
      " files of both are found by their names"
    )
  return root


def _load_plain(src, name) -> Loaded:
  data, height, width = canvas.read_photograph(src, name)
  image_HWC = image_ops.decode_image(data)
  return _loaded(name, data, image_HWC, (height, width), (), None)


def _load_labelled(src, reader, units, wordings, name) -> Loaded:
  photo = reader.read(src, units[name])
  image_HWC = image_ops.decode_image(photo.image)
  try:
    scene = make_scene(photo, image_HWC, wordings, MIN_AREA)
  except ValueError as error:
    raise RecordError(name, WHOLE_FILE, str(error)) from None
  size = photo.height, photo.width
  loaded = _loaded(name, photo.image, image_HWC, size, photo.regions, Measures(scene))
  return dataclasses.replace(loaded, notes=photo.notes)


def _loaded(name, data, image_HWC, size, regions, measures):
  side = min(SIDE, max(size))
  shown_HWC, _ = drawing.fit(image_HWC, [], side)
  look = split_by_photograph.describe(name, layout.photograph_key(name), data)
  subject = Subject(name, Picture(shown_HWC), measures)
  return Loaded(subject, data, *size, regions, look)
