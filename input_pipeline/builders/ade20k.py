"""ADE20K in the form of SceneParse150, in which LISA reads it."""

import re
from collections.abc import Mapping

from input_pipeline.builders.builder import Card
from input_pipeline.builders.class_maps import ClassMaps, first_folder
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError

_ROOTS = ("ade20k/", "ADEChallengeData2016/", "")
_FOLDERS = {"train": "training", "val": "validation"}
_NAME_LISTS = ("ade20k_classes.json", "objectInfo150.txt")
_CLASSES = 150

CARD = Card(
  name="ade20k",
  version="1.0.0",
  title="ADE20K, SceneParse150",
  description=(
    "Photographs of indoor and outdoor scenes with 150 classes of stuff and things,"
    " each class of a photograph one mask. Pixels that are unlabelled or of any other"
    " class (value 0) are no target. A class goes by the first of its synonyms."
  ),
  homepage="https://groups.csail.mit.edu/vision/datasets/ADE20K/",
  citation="""\
@inproceedings{zhou2017scene,
  title={Scene parsing through {ADE20K} dataset},
  author={Zhou, Bolei and Zhao, Hang and Puig, Xavier and Fidler, Sanja and
    Barriuso, Adela and Torralba, Antonio},
  booktitle={CVPR},
  year={2017}
}
@article{zhou2019semantic,
  title={Semantic understanding of scenes through the {ADE20K} dataset},
  author={Zhou, Bolei and Zhao, Hang and Puig, Xavier and Xiao, Tete and
    Fidler, Sanja and Barriuso, Adela and Torralba, Antonio},
  journal={International Journal of Computer Vision},
  volume={127},
  pages={302--321},
  year={2019}
}""",
  licence=(
    "ADE20K terms of use: research and education, not commercial; tools BSD-3-Clause"
  ),
  layout="""\
ade20k/                    (or ADEChallengeData2016/, or DIR itself)
  images/training/ADE_train_00000001.jpg ...       some are greyscale
  images/validation/ADE_val_00000001.jpg ...
  annotations/training/ADE_train_00000001.png ...  8 bits: 0 other, 1 to 150 classes
  annotations/validation/ADE_val_00000001.png ...
  ade20k_classes.json      list of 150 names (LISA), position = value - 1;
                           or objectInfo150.txt of the release, names in its last column
""",
  published={"train": {"images": 20_210}, "val": {"images": 2_000}},
)


class Ade20k(ClassMaps):
  """Value 0 is other, 1 to 150 are classes."""

  card = CARD

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    root = _root(src)
    if not any(src.is_file(root + name) for name in _NAME_LISTS):
      raise src.missing(*(root + name for name in _NAME_LISTS))
    there = [s for s, f in _FOLDERS.items() if src.is_dir(f"{root}annotations/{f}")]
    if not there:
      raise src.missing(f"{root}annotations/training")
    return tuple(there)

  def folders(self, src: SourceFolder, split: str) -> tuple[str, str]:
    root, folder = _root(src), _FOLDERS[split]
    return f"{root}images/{folder}", f"{root}annotations/{folder}"

  def classes(self, src: SourceFolder) -> Mapping[int, str | None]:
    file = src.first(*(_root(src) + name for name in _NAME_LISTS))
    if file is None:
      raise src.missing(*_NAME_LISTS)
    names = _json_names(src, file) if file.endswith(".json") else _table(src, file)
    if len(names) != _CLASSES:
      reason = f"holds {len(names)} names, want {_CLASSES}"
      raise RecordError(file, WHOLE_FILE, reason)
    first_synonyms = [re.split("[,;]", name)[0].strip() for name in names]
    if "" in first_synonyms:
      place = first_synonyms.index("") + 1
      raise RecordError(file, place, "names no class")
    return {0: None, **dict(enumerate(first_synonyms, start=1))}

  def picture_id(self, stem: str) -> str:
    return f"ade20k/{stem}"


def _root(src):
  found = first_folder(src, *(root + "annotations" for root in _ROOTS))
  if found is None:
    raise src.missing(*(root + "annotations" for root in _ROOTS[:2]))
  return found.removesuffix("annotations")


def _json_names(src, file):
  names = src.json(file)
  if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
    raise RecordError(file, WHOLE_FILE, "is no list of names")
  return names


def _table(src, file):
  """Names of the lines that begin with a number, by that number."""
  try:
    lines = src.read(file, 1 << 20).decode("utf-8-sig").splitlines()
  except ValueError as error:
    raise RecordError(file, WHOLE_FILE, f"cannot be read: {error}") from None
  rows = [line.rstrip().split("\t") for line in lines if re.match(r"\d+\t", line)]
  for place, row in enumerate(rows, start=1):
    if int(row[0]) != place:
      raise RecordError(file, place, f"has number {row[0]}, want {place}")
  return [row[-1] for row in rows]
