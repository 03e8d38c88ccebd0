"""MRSeg of SegLLM: rounds of masks, later questions refer to earlier masks.

    conversations_folder/mr_refcoco_train.json
    [{conversations: [{from, value, ind}]}]
      human  [IMAGE256:<path>] Segment a person.
      gpt    [MASK-DECODE:<path>|refcoco|488615].
      human  [MASK-ENCODE:<path>|refcoco|488615][BOX-ENCODE:...] Segment the cup that
             instance 1 holds.
      gpt    [MASK-DECODE:relational:488615:484448:<path>:refcoco].

A tag that points to a mask of an earlier round becomes words, "the object of round 1";
the tag in an answer becomes [SEG]. `mrseg_masks` finds the masks.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from input_pipeline import mask_ops
from input_pipeline.builders import fields, mrseg_masks, picture_ids, wording
from input_pipeline.builders.builder import Builder, Card
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.builders.lists import numbered
from input_pipeline.builders.photographs import read_photo
from input_pipeline.records import SEG_TOKEN, RecordError, SegConversation
from miras_jax.errors import UserError

_LISTS = "conversations_folder"
_PICTURES = "images_folder"
_TAG = re.compile(r"\[(IMAGE256|MASK-ENCODE|BOX-ENCODE|MASK-DECODE):([^\]]*)\]")
_INSTANCE = re.compile(r"\binstance (\d{1,3})\b", re.IGNORECASE)
MAX_ROUNDS = 100

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


class Pointer(NamedTuple):
  """A mask by its data set and number, and the picture that it lies on."""

  path: str
  dataset: str
  number: str

  @property
  def key(self):
    """Equal for equal masks; class maps have one a picture and class."""
    if self.dataset in mrseg_masks.BY_PICTURE:
      return f"{self.dataset}|{self.number}|{self.path}"
    return f"{self.dataset}|{self.number}"


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
    for item in unit["items"]:
      try:
        photo = read_photo(src, _find(src, unit["path"]))
        targets = [_target(src, unit["masks"][key], photo) for key in item["masks"]]
      except ValueError as error:
        yield RecordError(item["file"], item["index"], str(error))
        continue
      except RecordError as error:
        reason = f"{error.file}: {error.reason}"
        yield RecordError(item["file"], item["index"], reason)
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
          item = parse(raw, f"{stem}/{index}")
        except ValueError as error:
          yield RecordError(file, index, str(error))
          continue
        wanted.update((pointer.key, pointer) for pointer in item["pointers"])
        masks = [pointer.key for pointer in item.pop("pointers")]
        place = {"file": file, "index": index, "id": f"{stem}/{index}"}
        yield item.pop("path"), item | place | {"masks": masks}


def parse(raw, key: str) -> dict:
  """An item of a list -> its turns as text, its pointers in order, its picture's path.

  Raises ValueError with the reason why it cannot be used.
  """
  turns = fields.listed(fields.mapping(raw, "the entry"), "conversations")
  if not turns or len(turns) % 2 or len(turns) > 2 * MAX_ROUNDS:
    raise ValueError(f"has {len(turns)} turns, want pairs up to {2 * MAX_ROUNDS}")
  texts, pointers, paths = [], [], set()
  for k in range(0, len(turns), 2):
    asked = _value(turns[k], "human", k)
    answered = _value(turns[k + 1], "gpt", k + 1)
    answer, pointer, references = _answer(answered, k + 1)
    paths.update((repaired(pointer.path), *_pictures(asked)))
    rounds = _rounds(asked, references, pointers, k)
    texts += [("user", _question(asked, rounds, f"{key}/{k}")), ("assistant", answer)]
    pointers.append(pointer)
  if len(paths) > 1:
    raise ValueError(f"is about several pictures: {', '.join(sorted(paths))[:200]}")
  return {"turns": texts, "pointers": pointers, "path": paths.pop()}


def repaired(path: str) -> str:
  """A path of the lists as the published loader repairs it."""
  path = path.removeprefix("./").replace("val2014", "train2014").replace("new_", "")
  if "VG_100K" in path and not path.startswith("vg/"):
    path = f"vg/{path}"
  return path


def _value(turn, speaker, k):
  turn = fields.mapping(turn, f"turn {k}")
  if turn.get("from") != speaker:
    raise ValueError(f"turn {k} is from {str(turn.get('from'))[:20]!r}, want {speaker}")
  return fields.text(turn, "value")


def _answer(text, k):
  """(text with [SEG], Pointer, numbers of masks it refers to) of an answer."""
  tags = _TAG.findall(text)
  if [kind for kind, _ in tags] != ["MASK-DECODE"]:
    named = ", ".join(kind for kind, _ in tags) or "none"
    raise ValueError(f"turn {k}: has the tags {named}, want one MASK-DECODE")
  pointer, references = _pointer(tags[0][1], k)
  fields.answer(text, f"turn {k}")
  return _TAG.sub(SEG_TOKEN, text), pointer, references


def _pointer(content, k):
  """(Pointer, numbers of the masks it refers to) of what a MASK tag holds.

  `path|set|number`, or `task:reference[:second reference]:number:path:set`.
  """
  if content.count("|") == 2:
    return Pointer(*_pointed(*content.split("|"))), []
  parts = content.split(":")
  if len(parts) not in (5, 6):
    raise ValueError(f"turn {k}: cannot read the tag {content[:80]!r}")
  *references, number, path, dataset = parts[1:]
  references = [r for r in references if r not in ("none", "", "'")]
  return Pointer(*_pointed(path, dataset, number)), references


def _pointed(path, dataset, number):
  return repaired(path), dataset, "" if number in ("none", "'") else number


def _pictures(text):
  return {repaired(c) for kind, c in _TAG.findall(text) if kind == "IMAGE256"}


def _rounds(asked, references, earlier, k):
  """Numbers from 1 of the rounds whose masks a question refers to, in order."""
  wanted = []
  for kind, content in _TAG.findall(asked):
    if kind == "MASK-DECODE":
      raise ValueError(f"turn {k}: a question holds MASK-DECODE")
    if kind == "MASK-ENCODE":
      wanted.append(_pointer(content, k)[0].number)
  found = []
  for number in dict.fromkeys((*wanted, *references)):
    at = [i for i, pointer in enumerate(earlier) if pointer.number == number]
    if not at:
      raise ValueError(f"turn {k}: refers to mask {number!r} of no earlier round")
    found.append(at[-1] + 1)
  return found


def _question(text, rounds, key):
  """A question without tags, which names the rounds that the tags pointed to."""
  said = set()

  def name(match):
    number = int(match[1])
    if number not in rounds:
      return match[0]
    said.add(number)
    return f"the object of round {number}"

  text = " ".join(_INSTANCE.sub(name, _TAG.sub(" ", text)).split())
  text = fields.said(text, f"the question {key.rpartition('/')[2]}")
  if rest := [f"round {number}" for number in rounds if number not in said]:
    return wording.choose("rounds", key, rounds=" and ".join(rest), question=text)
  return text


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
