"""MUSE and MMR: questions whose answers hold several masks, in order.

    muse/muse_train.json      list of {file_name or coco_url, questions, answers, ...}

An item is a photograph; question i has the annotations answers[i], and in most items a
text in which `{seg}` stands for each of them.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

from input_pipeline import mask_ops
from input_pipeline.builders import fields, picture_ids, wording
from input_pipeline.builders.annotated import (
  MAX_LABELS,
  as_stated,
  several_segs,
  union_rle,
)
from input_pipeline.builders.builder import Builder, Card
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.builders.lists import numbered
from input_pipeline.builders.muse_cards import MMR, MUSE
from input_pipeline.builders.photographs import read_photo
from input_pipeline.records import SEG_TOKEN, RecordError, SegConversation

_COCO = (
  "refer_seg/images/mscoco/images/",
  "refer_seg/images/mscoco/",
  "coco/",
  "images/",
  "",
)
_SEG = "{seg}"


@dataclasses.dataclass(frozen=True)
class _Source:
  """What one of the two sets is: its card, its lists by split, where they may lie."""

  card: Card
  lists: dict[str, str]
  folders: tuple[str, ...]


class SeveralMasks(Builder):
  """Either set."""

  source: _Source

  @property
  def card(self) -> Card:
    return self.source.card

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    found = tuple(split for split in self.source.lists if self._list(src, split))
    if not found:
      raise src.missing(*self.source.lists.values())
    return found

  def units(self, src: SourceFolder, split: str) -> Iterator[dict | RecordError]:
    file = self._list(src, split)
    with grouped(fields.as_pairs(_items(src, file))) as photographs:
      yield from fields.errors(photographs)
      for name, items in photographs:
        if name != fields.ERRORS:
          yield {"file": file, "image": name, "items": items}

  def records(self, src: SourceFolder, unit) -> Iterator[SegConversation | RecordError]:
    try:
      name = _find(src, unit["image"])
      photo = read_photo(src, name)
    except ValueError as error:
      for item in unit["items"]:
        yield RecordError(unit["file"], item["index"], str(error))
      return
    for item in unit["items"]:
      try:
        shown = as_stated(photo, name, item["height"], item["width"])
      except ValueError as error:
        yield RecordError(unit["file"], item["index"], str(error))
        continue
      for number, asked in item["questions"]:
        try:
          yield self._record(shown, unit["image"], item["index"], number, asked)
        except ValueError as error:
          reason = f"question {number}: {error}"
          yield RecordError(unit["file"], item["index"], reason)

  def _list(self, src, split):
    name = self.source.lists[split]
    return src.first(*(f"{folder}{name}" for folder in self.source.folders))

  def _record(self, photo, image, index, number, asked):
    name = f"{index}/{number}"
    key = f"{self.card.name}/{name}"
    targets = tuple(
      (_name(label, f"{key}/{i}"), _rle(i, label, photo))
      for i, label in enumerate(asked["labels"])
    )
    question = wording.choose("question", key, question=asked["question"])
    return SegConversation(
      id=name,
      source=self.card.name,
      image=photo.data,
      turns=(("user", question), ("assistant", _answer(asked, key))),
      targets=targets,
      image_id=picture_ids.of_path(image),
    )


class Muse(SeveralMasks):
  """MUSE of PixelLM."""

  source = _Source(
    MUSE,
    {s: f"muse_{s}.json" for s in ("train", "val", "test_less", "test_many")},
    ("muse/", ""),
  )


class Mmr(SeveralMasks):
  """MMR: objects and their parts."""

  source = _Source(
    MMR,
    {
      split: f"MMR_{split}.json"
      for split in ("train", "val", "test_mixed", "test_obj_only", "test_part_only")
    },
    ("MMR/", "mmr/", ""),
  )


def _items(src, file):
  """(picture, item) pairs and errors; an item keeps its sound questions only."""
  for index, raw in numbered(src, file):
    try:
      raw = fields.mapping(raw, "the entry")
      item = {
        "index": index,
        "height": fields.whole(raw, "height"),
        "width": fields.whole(raw, "width"),
        "questions": [],
      }
      picture = _picture(raw)
      questions = list(_questions(raw))
    except ValueError as error:
      yield RecordError(file, index, str(error))
      continue
    for number, asked in questions:
      if isinstance(asked, str):
        yield RecordError(file, index, f"question {number}: {asked}")
      else:
        item["questions"].append([number, asked])
    if item["questions"]:
      yield picture, item


def _picture(raw):
  """Folder and name of a picture of COCO: `train2014/COCO_train2014_<id>.jpg`."""
  if raw.get("file_name") is None:
    if raw.get("coco_url") is None:
      raise ValueError("has neither file_name nor coco_url")
    parts = fields.text(raw, "coco_url", 1024).split("/")[-2:]
    if len(parts) < 2:
      raise ValueError(f"coco_url {raw['coco_url']!r} has no folder and name")
    return "/".join(parts)
  name = fields.text(raw, "file_name", 1024)
  return name if "/" in name else f"train2014/{name}"


def _questions(raw):
  """(number, {question, labels, text} or the reason why there is none) pairs."""
  asked = fields.listed(raw, "questions")
  answers = fields.listed(raw, "answers")
  texts = raw.get("text_answers")
  if texts is None:
    texts = [None] * len(asked)
  elif len(fields.listed(raw, "text_answers")) != len(asked):
    raise ValueError(f"{len(asked)} questions but {len(texts)} text_answers")
  if not asked or len(asked) != len(answers):
    raise ValueError(f"{len(asked)} questions but {len(answers)} answers")
  for number, parts in enumerate(zip(asked, answers, texts, strict=True)):
    try:
      yield number, _question(*parts)
    except ValueError as error:
      yield number, str(error)


def _question(question, answer, text):
  labels = fields.listed({"answers": answer}, "answers", MAX_LABELS)
  if not labels:
    raise ValueError("has no target")
  if text is not None:
    text = fields.answer(fields.text({"text": text}, "text"), "text_answers")
    if (count := text.count(_SEG)) != len(labels):
      raise ValueError(f"its text holds {count} {_SEG} for {len(labels)} targets")
  return {
    "question": fields.text({"question": question}, "question"),
    "labels": [_label(fields.mapping(label, "a target")) for label in labels],
    "text": text,
  }


def _label(label):
  """What names and draws a target."""
  kept = {"category_name": fields.text(label, "category_name", 1024)}
  if label.get("rephrased_name") is not None:
    kept["rephrased_name"] = fields.text(label, "rephrased_name", 1024)
  return kept | {"segmentation": label.get("segmentation")}


def _find(src, picture):
  """The file of a picture of COCO; the same one lies in train2017 under its number."""
  names = [f"{prefix}{picture}" for prefix in _COCO]
  stem = picture.rpartition("_")[2]
  if picture.startswith("train2014/"):
    names += [f"{prefix}train2017/{stem}" for prefix in _COCO]
  return src.first(*names) or names[0]


def _name(label, key):
  """`rephrased_name` of nine in ten targets that have one, as published."""
  plain = fields.class_name(label["category_name"].replace(":", " "))
  tenth = hashlib.sha256(key.encode()).digest()[0] % 10 == 0
  return plain if tenth else label.get("rephrased_name", plain)


def _rle(i, label, photo):
  try:
    rle = union_rle([label["segmentation"]], photo.height, photo.width)
  except ValueError as error:
    raise ValueError(f"target {i}: {error}") from None
  if not mask_ops.rle_area(rle):
    raise ValueError(f"target {i} ({label['category_name']}): its mask is empty")
  return rle


def _answer(asked, key):
  if asked["text"] is not None:
    return asked["text"].replace(_SEG, SEG_TOKEN)
  count = len(asked["labels"])
  kind = "answer" if count == 1 else "answer_several"
  return wording.choose(kind, key, seg=several_segs(count))
