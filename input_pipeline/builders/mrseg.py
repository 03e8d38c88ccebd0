"""MRSeg of SegLLM: rounds of masks, later questions refer to earlier masks.

    conversations_folder/mr_refcoco_train.json
    images_folder/, annotations_folder/

`mrseg_rounds` reads a conversation, `mrseg_masks` finds the masks that it names.
"""

import contextlib
from collections.abc import Iterator

from input_pipeline import mask_ops
from input_pipeline.builders import fields, mrseg_masks, mrseg_rounds, picture_ids
from input_pipeline.builders.builder import Builder, Card
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.builders.lists import numbered
from input_pipeline.builders.photographs import read_photo
from input_pipeline.records import RecordError, SegConversation
from miras_jax.errors import UserError

_LISTS = "conversations_folder"
_PICTURES = "images_folder"

CARD = Card(
  name="mrseg",
  version="1.0.0",
  title="MRSeg: rounds of segmentation that refer to earlier masks",
  description=(
    "Conversations of several rounds, one mask a round. Where a question points to the"
    " mask of an earlier round, it says which round; a pointer to a mask that no"
    " earlier round has is rejected by name. Built from RefCOCO, RefCOCO+, RefCOCOg,"
    " LVIS, PACO, PASCAL and Visual Genome, so that pictures of the referring sets'"
    " test splits are among those of train. `lists` says which lists are read, by the"
    " beginnings of their names."
  ),
  homepage="https://github.com/berkeley-hipie/segllm",
  citation="""\
@inproceedings{wang2024segllm,
  title={SegLLM: Multi-round Reasoning Segmentation},
  author={Wang, XuDong and Zhang, Shaolun and Li, Shufan and Kallidromitis, Konstantinos
    and Li, Kehan and Kato, Yusuke and Kozuka, Kazuki and Darrell, Trevor},
  booktitle={ICLR},
  year={2025},
  note={arXiv:2410.18923}
}
""",
  licence="none stated",
  layout=f"""\
SRC/conversations_folder/         lists, also in folders below
  mr_refcoco_train.json, mr_refcoco+_train.json, mr_refcocog_train.json,
  mr_paco_train.json, mr_lvis_train.json, mr_pascal_train.json, mr_vg_train.json,
  the same with _hard_train, and _val
SRC/annotations_folder/           those that the lists name
{mrseg_masks.layout()}
SRC/images_folder/
  coco/train2014/, coco/train2017/, vg/VG_100K/, vg/VG_100K_2/, pascal/, ...
Paths in the lists are repaired as by the loader: val2014 is train2014, `new_` is left
out, VG_100K lies below vg/.
""",
)


class MrSeg(Builder):
  """See CARD. lists: beginnings of names of lists, with commas between them."""

  card = CARD

  def __init__(self, lists: str = "mr_"):
    self.lists = tuple(name.strip() for name in lists.split(",") if name.strip())
    if not self.lists:
      raise UserError("lists= names no list; mr_ stands for all with several rounds")

  def options(self):
    return {"lists": list(self.lists)}

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    found = tuple(split for split in ("train", "val") if self._files(src, split))
    if not found:
      raise src.missing(f"{_LISTS}/mr_refcoco_train.json")
    return found

  def units(self, src: SourceFolder, split: str) -> Iterator[dict | RecordError]:
    wanted = {}
    with contextlib.ExitStack() as stack:
      parsed = fields.as_pairs(self._items(src, split, wanted))
      photographs = stack.enter_context(grouped(parsed))
      stored = mrseg_masks.stored(src, split, wanted)
      masks = stack.enter_context(grouped(stored))
      yield from fields.errors(photographs)
      for path, items in photographs:
        if path != fields.ERRORS:
          yield from _unit(path, items, masks)

  def records(self, src: SourceFolder, unit) -> Iterator[SegConversation | RecordError]:
    try:
      photo = read_photo(src, _find(src, unit["path"]))
    except ValueError as error:
      for item in unit["items"]:
        yield RecordError(item["file"], item["index"], str(error))
      return
    for item in unit["items"]:
      try:
        targets = [_target(src, unit["masks"][key], photo) for key in item["masks"]]
      except ValueError as error:
        yield RecordError(item["file"], item["index"], str(error))
        continue
      yield SegConversation(
        id=item["id"],
        source="mrseg",
        image=photo.data,
        turns=tuple((role, text) for role, text in item["turns"]),
        targets=tuple(targets),
        image_id=picture_ids.of_path(unit["path"]),
      )

  def _files(self, src, split):
    """The lists of a split, sorted."""
    names = src.walk(_LISTS, f"_{split}.json")
    return [n for n in names if n.rpartition("/")[2].startswith(self.lists)]

  def _items(self, src, split, wanted):
    """(path of the picture, item) pairs and errors; fills {key: Pointer} `wanted`."""
    for file in self._files(src, split):
      stem = file.removeprefix(f"{_LISTS}/").removesuffix(".json")
      for index, raw in numbered(src, file):
        try:
          item = mrseg_rounds.parse(raw, f"{stem}/{index}")
        except ValueError as error:
          yield RecordError(file, index, str(error))
          continue
        wanted.update((pointer.key, pointer) for pointer in item["pointers"])
        masks = [pointer.key for pointer in item.pop("pointers")]
        place = {"file": file, "index": index, "id": f"{stem}/{index}"}
        yield item.pop("path"), item | place | {"masks": masks}


def _unit(path, items, masks):
  """The unit of a picture; errors for those of its items whose masks are missing."""
  known, whole = {}, []
  for item in items:
    for key in item["masks"]:
      found = known.get(key) or next(iter(masks[key]), None)
      known[key] = found or {"missing": f"mask {key} is in no list of annotations"}
    missing = [known[k]["missing"] for k in item["masks"] if "missing" in known[k]]
    if missing:
      yield RecordError(item["file"], item["index"], missing[0])
    else:
      whole.append(item)
  if whole:
    used = {key: known[key] for item in whole for key in item["masks"]}
    yield {"path": path, "items": whole, "masks": used}


def _find(src, path):
  names = [f"{_PICTURES}/{path}"]
  names.append(names[0].replace("val2017", "train2017"))
  return src.first(*names) or names[0]


def _target(src, mask, photo):
  rle = mrseg_masks.draw(src, mask, photo)
  if not mask_ops.rle_area(rle):
    raise ValueError(f"mask {mask['key']}: is empty")
  return mask["name"], rle
