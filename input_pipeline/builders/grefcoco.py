"""gRefCOCO: expressions for one object, several or none, in the layout of REFER."""

from collections.abc import Iterator

from input_pipeline import mask_ops
from input_pipeline.builders import fields, refer_cards
from input_pipeline.builders.annotated import MAX_LABELS, union_rle
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.refer import Refer
from input_pipeline.records import RecordError
from miras_jax.errors import UserError

TARGETS = ("union", "each")
_NONE = -1  # the `ann_id` of an expression for nothing in the picture


class GRefCoco(Refer):
  """targets: "union", one mask for all objects, as published; "each", one an object."""

  def __init__(self, targets: str = "union"):
    if targets not in TARGETS:
      raise UserError(f"targets={targets!r} is not one of {', '.join(TARGETS)}")
    self.dataset, self.split_by, self.targets = "grefcoco", "unc", targets
    self.card = refer_cards.GREFCOCO
    self._folder, self._list = "grefcoco", "grefs(unc)"
    self._splits = ("train", "val", "testA", "testB")
    self._names = {}

  def options(self):
    return {"targets": self.targets}

  def units(self, src: SourceFolder, split: str) -> Iterator[dict | RecordError]:
    if self.targets == "each":
      self._names = _class_names(src, self._files(src).instances)
    yield from super().units(src, split)

  def _label_ids(self, raw):
    """The list of `ann_id`, which may be one number; [] for no object."""
    ids = raw.get("ann_id")
    if not isinstance(ids, list | tuple):
      ids = [fields.whole(raw, "ann_id")]
    if len(ids) > MAX_LABELS:
      raise ValueError(f"ann_id has {len(ids):,} numbers, the limit is {MAX_LABELS:,}")
    ids = [fields.whole({"ann_id": number}, "ann_id") for number in ids]
    if not ids:
      raise ValueError("ann_id is an empty list; [-1] states that nothing is meant")
    if _NONE in ids and len(ids) > 1:
      raise ValueError(f"ann_id {ids} states both no object and an object")
    return [] if ids == [_NONE] else list(dict.fromkeys(ids))

  def _labels(self, src, instances, wanted):
    for number, label in super()._labels(src, instances, wanted):
      name = self._names.get(str(label["category_id"]))
      yield number, label | ({"name": name} if name else {})

  def _targets(self, ref, height, width):
    if not ref["labels"]:
      return [(None, mask_ops.empty_rle(height, width))]
    labels = [label for label in ref["labels"] if not label["iscrowd"]]
    if not labels:
      raise ValueError("each of its annotations is a crowd, which is no target here")
    if self.targets == "union":
      return super()._targets({"labels": labels}, height, width)
    return [
      (label.get("name"), union_rle([label["segmentation"]], height, width))
      for label in labels
    ]


def _class_names(src, instances):
  """{category id as text: name}, some eighty of them."""
  names = {}
  for item in src.items(instances, "categories.item"):
    if isinstance(item, dict) and isinstance(item.get("name"), str):
      names[str(item.get("id"))] = fields.class_name(item["name"])
  return names
