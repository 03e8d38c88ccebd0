"""Mapillary Vistas, research edition, with the labels of version 2.0 or 1.2."""

from collections.abc import Mapping
from typing import Any

from input_pipeline.builders.builder import Card
from input_pipeline.builders.class_maps import ClassMaps
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import WHOLE_FILE, RecordError
from miras_jax.errors import UserError

_ROOTS = ("mapillary/", "")
_FOLDERS = {"train": "training", "val": "validation"}
VERSIONS = ("v2.0", "v1.2")

CARD = Card(
  name="mapillary",
  version="1.0.0",
  title="Mapillary Vistas, research edition",
  description=(
    "Street photographs from all over the world, each class of a photograph one mask."
    " The labels are those of version 2.0 (124 classes), or with --labels=v1.2 those of"
    " version 1.2 (66). Classes go by their readable name in lower case. Void classes"
    " (ego vehicle, unlabelled, ...) have ordinary values; they are no target, unlike"
    " in the published loader."
  ),
  homepage="https://www.mapillary.com/dataset/vistas",
  citation="""\
@inproceedings{neuhold2017mapillary,
  title={The {Mapillary} {Vistas} dataset for semantic understanding of street scenes},
  author={Neuhold, Gerhard and Ollmann, Tobias and Rota Bul{\\`o}, Samuel and
    Kontschieder, Peter},
  booktitle={ICCV},
  year={2017}
}""",
  licence="CC BY-NC-SA 4.0, after registration",
  layout="""\
mapillary/                         (or DIR itself)
  config_v2.0.json  config_v1.2.json   position in `labels` = value in a map
  training/images/<key>.jpg ...        many have more than 8 megapixels
  training/v2.0/labels/<key>.png ...   8 bits with a palette, which is for show only
  training/v1.2/labels/<key>.png ...   (1.1 and older had no folders of versions)
  validation/...                       testing/ has no labels
""",
  published={"train": {"images": 18_000}, "val": {"images": 2_000}},
)


class Mapillary(ClassMaps):
  """Values are positions in the labels of `config_<version>.json`."""

  card = CARD

  def __init__(self, *, labels: str = VERSIONS[0]):
    super().__init__()
    if labels not in VERSIONS:
      raise UserError(f"--labels={labels}: want one of {', '.join(VERSIONS)}")
    self._labels = labels

  def options(self) -> Mapping[str, Any]:
    return {"labels": self._labels}

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    root = self._root(src)
    there = [s for s in _FOLDERS if src.is_dir(self._maps(root, s))]
    if not there:
      raise src.missing(self._maps(root, "train"))
    return tuple(there)

  def folders(self, src: SourceFolder, split: str) -> tuple[str, str]:
    root = self._root(src)
    return f"{root}{_FOLDERS[split]}/images", self._maps(root, split)

  def classes(self, src: SourceFolder) -> Mapping[int, str | None]:
    file = self._root(src) + self._config()
    config = src.json(file)
    labels = config.get("labels") if isinstance(config, dict) else None
    if not isinstance(labels, list) or not 0 < len(labels) <= 256:
      raise RecordError(file, WHOLE_FILE, "has no list 'labels' of 1 to 256 classes")
    return {value: _name(file, value, label) for value, label in enumerate(labels)}

  def picture_id(self, stem: str) -> str:
    return f"mapillary/{stem}"

  def _config(self):
    return f"config_{self._labels}.json"

  def _root(self, src):
    file = src.first(*(root + self._config() for root in _ROOTS))
    if file is None:
      raise src.missing(_ROOTS[0] + self._config())
    return file.removesuffix(self._config())

  def _maps(self, root, split):
    return f"{root}{_FOLDERS[split]}/{self._labels}/labels"


def _name(file, value, label):
  """The readable name of a label in lower case, None for a void one."""
  name = label.get("name") if isinstance(label, dict) else None
  readable = label.get("readable") if isinstance(label, dict) else None
  if not isinstance(name, str) or not isinstance(readable, str) or not readable.strip():
    raise RecordError(file, f"labels[{value}]", "has no 'name' and 'readable' texts")
  is_void = "void" in name.split("--") or "unlabel" in name
  return None if is_void else readable.strip().lower()
