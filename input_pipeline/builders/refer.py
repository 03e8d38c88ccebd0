"""Referring expressions in the layout of REFER: one sentence, one object.

    refer_seg/refcoco/refs(unc).p, instances.json
    refer_seg/images/mscoco/images/train2014/COCO_train2014_000000581857.jpg

An expression (a "ref") is an object and several sentences; each sentence is a
conversation. Of the files, streamed, only what joins them is held: numbers of the
split's expressions and annotations. A pickle cannot be streamed and is held whole.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

from input_pipeline import mask_ops
from input_pipeline.builders import (
  fields,
  picture_ids,
  refer_cards,
  refer_lists,
  wording,
)
from input_pipeline.builders.annotated import (
  read_annotated,
  several_segs,
  union_rle,
)
from input_pipeline.builders.builder import Builder
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.records import (
  SEG_TOKEN,
  RecordError,
  SegConversation,
)

MAX_SENTENCE = 1024  # characters
MAX_SENTENCES = 1000  # of one object
_ROOTS = ("refer_seg/", "")
_COCO = ("images/mscoco/images/train2014", "images/mscoco/train2014", "train2014")
_SAIAPR = ("images/saiapr_tc-12", "saiapr_tc-12")
_SPLITS = {
  ("refcoco", "unc"): ("train", "val", "testA", "testB"),
  ("refcoco+", "unc"): ("train", "val", "testA", "testB"),
  ("refclef", "unc"): ("train", "val", "testA", "testB", "testC"),
  ("refcocog", "google"): ("train", "val"),
}
_THREE = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class _Files:
  refs: str
  instances: str
  pictures: str


class Refer(Builder):
  """RefCOCO, RefCOCO+, RefCOCOg or RefCLEF, split as `split_by` says."""

  def __init__(self, dataset: str, split_by: str):
    self.dataset, self.split_by = dataset, split_by
    self.card = refer_cards.refer_card(dataset, split_by)
    self._folder, self._list = dataset, f"refs({split_by})"
    self._splits = _SPLITS.get((dataset, split_by), _THREE)

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    self._files(src)
    return self._splits

  def units(self, src: SourceFolder, split: str) -> Iterator[dict | RecordError]:
    files = self._files(src)
    wanted = _Wanted()
    with contextlib.ExitStack() as stack:
      parsed = self._refs(src, files, split, wanted)
      refs = stack.enter_context(grouped(fields.as_pairs(parsed)))
      images = stack.enter_context(
        grouped(refer_lists.images_of(src, files.instances, wanted.images))
      )
      labels = stack.enter_context(grouped(self._labels(src, files.instances, wanted)))
      yield from fields.errors(refs)
      for image_id, members in refs:
        if image_id != fields.ERRORS:
          yield from self._unit(files, image_id, images[image_id], members, labels)

  def records(self, src: SourceFolder, unit) -> Iterator[SegConversation | RecordError]:
    try:
      photo = read_annotated(src, unit["image"], unit["height"], unit["width"])
    except ValueError as error:
      for ref in unit["refs"]:
        yield RecordError(unit["file"], ref["index"], str(error))
      return
    for ref in unit["refs"]:
      try:
        targets = self._targets(ref, photo.height, photo.width)
      except ValueError as error:
        yield RecordError(unit["file"], ref["index"], str(error))
        continue
      for number, sentence in ref["sentences"]:
        yield self._record(photo, unit, ref, number, sentence, targets)

  def _files(self, src):
    """The names of the source's files. UserError (`missing`) without them."""
    refs = [f"{self._folder}/{self._list}.{end}" for end in ("p", "json")]
    instances = f"{self._folder}/instances.json"
    found = _Files(
      _first(src, *refs),
      _first(src, instances),
      _first(src, *(_SAIAPR if self.dataset == "refclef" else _COCO)),
    )
    if not found.refs:
      raise src.missing(*refs)
    if not found.instances:
      raise src.missing(instances)
    if not found.pictures:
      raise src.missing("folder of photographs")
    return found

  def _refs(self, src, files, split, wanted):
    """(image_id, ref) pairs of a split and errors; fills `wanted`."""
    for index, raw in refer_lists.raw_refs(src, files.refs):
      try:
        if self._is_in(_split_of(raw), split):
          ref = self._parse(raw) | {"index": index}
          wanted.add(ref)
          yield str(ref.pop("image_id")), ref
      except _NoSplit as error:  # belongs nowhere, so it is told with the first
        if split == self._splits[0]:
          yield RecordError(files.refs, index, str(error))
      except ValueError as error:
        yield RecordError(files.refs, index, str(error))

  def _is_in(self, named, split):
    """Whether an expression's `split`, "testAB" for instance, names a split."""
    known = [s for s in self._splits if _names(named, s)]
    if not known:
      raise _NoSplit(f"split is {named!r}, want one of {', '.join(self._splits)}")
    return split in known

  def _parse(self, raw):
    """An expression, checked -> what a unit keeps of it, and its `image_id`."""
    ids = self._label_ids(raw)
    sentences = {}
    for sentence in fields.listed(raw, "sentences", MAX_SENTENCES):
      sentence = fields.mapping(sentence, "a sentence")
      number = fields.whole(sentence, "sent_id")
      if number in sentences:
        raise ValueError(f"sent_id {number} is given twice")
      sentences[number] = fields.text(sentence, "sent", MAX_SENTENCE)
    if not sentences:
      raise ValueError("sentences is an empty list")
    return {
      "ref_id": fields.whole(raw, "ref_id"),
      "image_id": fields.whole(raw, "image_id"),
      "labels": ids,
      "sentences": list(sentences.items()),
    }

  def _label_ids(self, raw):
    """Numbers of the annotations that an expression means."""
    return [fields.whole(raw, "ann_id")]

  def _labels(self, src, instances, wanted):
    """(annotation id, what of it draws the target) pairs."""
    for item in src.items(instances, "annotations.item"):
      if isinstance(item, dict) and refer_lists.is_in(item.get("id"), wanted.labels):
        keys = ("image_id", "segmentation", "iscrowd", "category_id")
        yield item["id"], {key: item.get(key) for key in keys}

  def _unit(self, files, image_id, images, refs, labels):
    """The unit of a photograph, and errors for those of its refs that lack a part."""
    if reason := refer_lists.image_defect(image_id, images, files.instances):
      for ref in refs:
        yield RecordError(files.refs, ref["index"], reason)
      return
    image, whole = images[0], []
    for ref in refs:
      try:
        ref["labels"] = [
          refer_lists.label_of(labels, n, image_id, files.instances)
          for n in ref["labels"]
        ]
        whole.append(ref)
      except ValueError as error:
        yield RecordError(files.refs, ref["index"], str(error))
    if whole:
      yield {
        "file": files.refs,
        "image": f"{files.pictures}/{image['file_name']}",
        "image_id": self._picture(image_id),
        "height": image["height"],
        "width": image["width"],
        "refs": whole,
      }

  def _picture(self, number):
    if self.dataset == "refclef":
      return f"saiapr/{number}"
    return picture_ids.coco(number)

  def _targets(self, ref, height, width):
    """[(name, or None for the sentence itself; RLE)] of an expression."""
    segmentations = [label["segmentation"] for label in ref["labels"]]
    return [(None, union_rle(segmentations, height, width))]

  def _record(self, photo, unit, ref, number, sentence, targets):
    name = f"{ref['ref_id']}/{number}"
    key = f"{self.card.name}/{name}"
    targets = [(sentence if t is None else t, rle) for t, rle in targets]
    question = wording.choose("phrase", key, phrase=sentence)
    return SegConversation(
      id=name,
      source=self.card.name,
      image=photo.data,
      turns=(("user", question), ("assistant", answer_for(targets, key))),
      targets=tuple(named_if_any(name, rle) for name, rle in targets),
      image_id=unit["image_id"],
    )


class _NoSplit(ValueError):
  """An expression that is in no split of the set."""


class _Wanted:
  """Numbers of a split: images and annotations to look up, expressions seen."""

  def __init__(self):
    self.images, self.labels, self._refs = set(), set(), set()

  def add(self, ref):
    if ref["ref_id"] in self._refs:
      raise ValueError(f"ref_id {ref['ref_id']} is given twice")
    self._refs.add(ref["ref_id"])
    self.images.add(ref["image_id"])
    self.labels.update(ref["labels"])


def answer_for(targets, key: str) -> str:
  """The answer that holds one [SEG] for each of the (name, RLE) targets."""
  if not any(mask_ops.rle_area(rle) for _, rle in targets):
    return wording.choose("answer_empty", key, seg=SEG_TOKEN)
  if len(targets) == 1:
    return wording.choose("answer", key, seg=SEG_TOKEN)
  return wording.choose("answer_several", key, seg=several_segs(len(targets)))


def named_if_any(name: str, rle: dict) -> tuple[str, dict]:
  """A target; the name of an empty one is ""."""
  return (name if mask_ops.rle_area(rle) else "", rle)


def _first(src, *names):
  return src.first(*(f"{root}{name}" for root in _ROOTS for name in names))


def _split_of(raw):
  try:
    return fields.text(fields.mapping(raw, "the entry"), "split", 40)
  except ValueError as error:
    raise _NoSplit(str(error)) from None


def _names(named, split):
  """testAB names testA and testB, and no other split."""
  if split.startswith("test") and named.startswith("test") and len(split) == 5:
    return split[4] in named[4:]
  return named == split
