"""Where tools put photographs and what belongs to them, and what a folder's name says.

A file's `place` is its split and the rest of its name, without the suffix and without
the folders that only say what kind of file it is: `train/images/a.jpg`,
`labels/train/a.txt` and `train/a.json` have one place, ("train", "a").
"""

import functools
import hashlib
import json
import os
import re

import ijson

from input_pipeline.builders import finish, json_stream
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError
from miras_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
IMAGE_FOLDERS = frozenset("images image imgs img photos jpegimages data".split())
LABEL_FOLDERS = frozenset(
  "masks mask labels label annotations json jsons labelme segmentationclass"
  " segmentationclasspng".split()
)
SPLITS = {
  "train": "train",
  "training": "train",
  "val": "val",
  "valid": "val",
  "validation": "val",
  "test": "test",
  "testing": "test",
}
CONSTRUCTED = ".construct"  # in a folder that `miras data construct` writes
MAX_FILES = 5_000_000
_MAX_DEPTH = 8  # of folders
MASK_SUFFIX = "_mask"  # of a mask beside its photograph
_COCO = ("images.item.file_name", "annotations.item.image_id")
_MAX_EVENTS = 5_000_000  # of a JSON file whose kind is asked
_MAX_LEVELS = 3  # of nesting that are looked at
_BUFFER = 1 << 20  # bytes: a long text is scanned anew with every buffer
_MAX_LOOKED_AT = 64  # JSON files that belong to no single photograph
_PNG = (".png", ".PNG")
_ROBOFLOW = re.compile(r"(?:_(?:jpe?g|png|webp|bmp|tiff?))?\.rf\.[0-9A-Za-z]+$", re.I)


@functools.lru_cache(maxsize=2)
def files(src: SourceFolder) -> tuple[str, ...]:
  """Names of all files below the root, sorted folder by folder; links are not judged
  here but by whoever reads them."""
  found = []
  for name in _walk(src, "", _MAX_DEPTH):
    found.append(name)
    if len(found) > MAX_FILES:
      raise UserError(f"--src={src.root}: holds more than {MAX_FILES:,} files")
  return tuple(found)


def digest(src: SourceFolder) -> str:
  """Of names, sizes and times of all files; of a bucket's, of the names."""
  whole = hashlib.sha256()
  for name in files(src):
    path = os.path.join(src.root, name)
    status = os.stat(path) if os.path.exists(path) else None  # else a link to nothing
    about = [status.st_size, int(status.st_mtime)] if status else []
    whole.update(json.dumps([name, *about]).encode())
  return whole.hexdigest()[:16]


def _walk(src, prefix, depth):
  entries = sorted(_entries(src.root / prefix if prefix else src.root))
  if prefix and _is_built(src.root / prefix, entries):
    return  # what was built from these files and put beside them
  yield from (prefix + name for name, is_folder in entries if not is_folder)
  for name, is_folder in entries:
    if is_folder and depth:
      yield from _walk(src, f"{prefix}{name}/", depth - 1)


def _is_built(folder, entries):
  is_whole = any(name == finish.NAME for name, _ in entries)
  marks = folder / ".build" / "settings.json", folder / CONSTRUCTED
  return is_whole or any(mark.is_file() for mark in marks)


def _entries(folder):
  """(name, whether it is a folder) of what is not hidden."""
  if "://" in str(folder):
    return [(p.name, p.is_dir()) for p in folder.iterdir() if p.name[:1] != "."]
  with os.scandir(folder) as entries:
    return [(e.name, e.is_dir()) for e in entries if e.name[:1] != "." and _leads_on(e)]


def _leads_on(entry):
  """False of a link to a folder that it is in."""
  if not entry.is_symlink() or not entry.is_dir():
    return True
  real, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry))
  return os.path.commonpath([real, here]) != real


def with_suffix(src: SourceFolder, *suffixes: str) -> list[str]:
  return [name for name in files(src) if name.lower().endswith(suffixes)]


def photographs(src: SourceFolder) -> list[str]:
  """Names of the pictures that are no masks."""
  return _pictures(src)[0]


def masks(src: SourceFolder) -> list[str]:
  """Names of the PNGs that lie where masks lie, or beside a photograph as its mask."""
  return _pictures(src)[1]


@functools.lru_cache(maxsize=2)
def _pictures(src):
  pictures = with_suffix(src, *IMAGE_SUFFIXES)
  shown = {os.path.splitext(name)[0] for name in pictures}
  masks_ = {name for name in pictures if _is_mask(name, shown)}
  outside = [name for name in pictures if name not in masks_]
  if not outside:  # labelme's files and their photographs in `annotations/`
    return pictures, []
  return outside, [name for name in pictures if name in masks_ and name[-4:] in _PNG]


def _is_mask(name, shown):
  folders = name.lower().split("/")[:-1]
  own = os.path.splitext(name)[0]
  beside = own.endswith(MASK_SUFFIX) and own.removesuffix(MASK_SUFFIX) in shown
  return beside or not LABEL_FOLDERS.isdisjoint(folders)


def stem(name: str) -> str:
  return os.path.splitext(os.path.basename(name))[0]


def split_of(name: str) -> str | None:
  """The split that a folder of the name states."""
  stated = (SPLITS.get(folder) for folder in name.lower().split("/")[:-1])
  return next((split for split in stated if split), None)


def place(name: str) -> tuple[str | None, str]:
  """(split, rest) of a file: equal for a photograph and what belongs to it."""
  *folders, _ = name.split("/")
  silent = (IMAGE_FOLDERS, LABEL_FOLDERS, SPLITS)
  kept = [f for f in folders if not any(f.lower() in names for names in silent)]
  own = stem(name)
  if name.lower().endswith(".png"):
    own = own.removesuffix(MASK_SUFFIX)
  return split_of(name), "/".join([*kept, own])


def photograph_key(name: str) -> str:
  """Equal for copies of one photograph: Roboflow's augmented ones share the stem."""
  return _ROBOFLOW.sub("", place(name)[1])


def by_place(names) -> dict[tuple[str | None, str], str]:
  return {place(name): name for name in names}


def belonging(places: dict, name: str) -> str | None:
  """What `by_place` has for a file; of labels without a split, whatever its split."""
  split, rest = place(name)
  return places.get((split, rest)) or places.get((None, rest))


@functools.lru_cache(maxsize=2)
def json_kinds(src: SourceFolder) -> dict[str, str]:
  """{JSON file: "labelme", "coco", "label_studio", "prist" or ""}, by a look inside.

  Of files that lie beside a photograph of the same stem the first three are looked
  into; the others are the same.
  """
  shown = {rest for _, rest in map(place, photographs(src))}
  names = with_suffix(src, ".json")
  paired = [name for name in names if place(name)[1] in shown]
  alone = [name for name in names if place(name)[1] not in shown]
  kinds = {n: json_kind(src, n) for n in [*paired[:3], *alone[:_MAX_LOOKED_AT]]}
  usual = [kind for kind in kinds.values() if kind == "labelme"]
  rest = usual[0] if usual else ""
  return {name: kinds.get(name, rest) for name in names}


def elements(src: SourceFolder, name: str):
  """`json_stream.elements` of a file. Raises RecordError where it breaks off."""
  try:
    with src.open(name) as file:
      yield from json_stream.elements(file)
  except FileNotFoundError:
    raise RecordError(name, WHOLE_FILE, "no such file") from None
  except (OSError, ValueError) as error:
    raise RecordError(name, WHOLE_FILE, str(error)) from None


def json_kind(src: SourceFolder, name: str) -> str:
  """Whose file this is, by its first keys; "" for one of nobody's that we read."""
  keys = set()
  try:
    with src.open(name) as file:
      for count, (prefix, event, value) in enumerate(_events(file)):
        if prefix in _COCO:
          return "coco"
        if event == "map_key" and prefix in ("", "item"):
          keys.add((prefix, value))
          if kind := _kind(keys):
            return kind
        if (prefix, event) == ("item", "end_map") or count > _MAX_EVENTS:
          break
  except (ijson.JSONError, UnicodeDecodeError, OSError, ValueError):
    return ""  # not ours to judge: the form that needs the file names its damage
  return ""


def _events(file):
  """`ijson.parse`, which joins the names of all levels for every event, however deep:
  below `_MAX_LEVELS` the prefix is that of the level above."""
  path, depth = [], 0
  # An integer that Python refuses ends the process unless use_float is set.
  for event, value in ijson.basic_parse(file, use_float=True, buf_size=_BUFFER):
    if event in ("end_map", "end_array"):
      depth -= 1
      del path[depth:]
    yield ".".join(path[:-1] if event == "map_key" else path), event, value
    if event == "map_key" and depth <= _MAX_LEVELS:
      path[-1] = value
    if event in ("start_map", "start_array"):
      depth += 1
      path += ["item" if event == "start_array" else ""][: depth <= _MAX_LEVELS]


def _kind(keys) -> str:
  if ("", "shapes") in keys:
    return "labelme"
  if {("item", "img_id"), ("item", "dialogue")} <= keys:
    return "prist"
  if ("item", "data") in keys and not keys.isdisjoint(
    [("item", "annotations"), ("item", "completions")]
  ):
    return "label_studio"
  return ""
