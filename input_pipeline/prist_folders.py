"""Where the photographs and annotations of a PRIST data set lie."""

import dataclasses
import os
import pathlib

from input_pipeline import safe_files
from miras_jax.errors import UserError


class Defect(Exception):
  """Why a record is unusable; becomes a RecordError with file and index."""


@dataclasses.dataclass(frozen=True)
class Folder:
  path: pathlib.Path
  shown: str  # relative to the data root where it lies inside, ends in "/"


def check_root(root):
  root = pathlib.Path(root)
  if not root.is_dir():
    raise UserError(f"{root}: no such data folder")
  return root


def beside(images_dir):
  """`masks/` in the chosen folder of photographs, as published, where there is one."""
  found = images_dir and pathlib.Path(images_dir, "masks")
  return found if found and found.is_dir() else None


def find_folders(root, chosen, names):
  """Where to look: the chosen folder alone, else `names` under the root."""
  if chosen is not None:
    path = pathlib.Path(chosen)
    if not path.is_dir():
      raise UserError(f"{path}: no such folder")
    return (Folder(path, f"{chosen}/"),)
  folders = []
  for name in names:
    try:
      folders.append(Folder(safe_files.resolve_inside(root, name), f"{name}/"))
    except ValueError:
      raise UserError(
        f"{root / name}: is a link out of the data folder; name its target as the "
        "images or masks folder instead"
      ) from None
  return tuple(folders)


def find_file(folders, name):
  """(path of `name` in the first folder that has it, that path as shown).

  A backslash in it separates folders, unless a file has that very name. Where no
  folder has it, the path that would have been last.
  """
  for folder in folders:
    for one in dict.fromkeys((name, safe_files.forward(name))):
      try:
        path = safe_files.resolve_inside(folder.path, one)
      except ValueError as e:
        raise Defect(f"{folder.shown}{name}: {e}") from None
      if os.path.lexists(path):
        return path, f"{folder.shown}{one}"
  return path, f"{folders[0].shown}{name}"


def annotation_name(image_name):
  """Of the annotation of a photograph; the last extension only is replaced."""
  extension = os.path.splitext(safe_files.forward(image_name))[1]
  return image_name.removesuffix(extension) + ".json"
