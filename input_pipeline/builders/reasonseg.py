"""ReasonSeg: questions that need reasoning, one mask, explanations of some.

    reason_seg/ReasonSeg/{train,val,test}/<id>.jpg, <id>.json
    reason_seg/ReasonSeg/explanatory/train.json

The JSON files are not labelme's: they state no size and hold no name of the picture.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.builders import fields, wording
from input_pipeline.builders.annotated import MAX_LABELS
from input_pipeline.builders.builder import Builder, Card
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.builders.photographs import read_photo
from input_pipeline.records import (
  SEG_TOKEN,
  WHOLE_FILE,
  RecordError,
  SegConversation,
)

_ROOTS = ("reason_seg/ReasonSeg", "ReasonSeg", "reason_seg", ".")
_SPLITS = ("train", "val", "test")
MAX_POINTS = 100_000  # of one polygon
# Of a question that is a sentence the target has no name but that of its label.
NAME = "target"

CARD = Card(
  name="reasonseg",
  version="1.0.0",
  title="ReasonSeg",
  description=(
    "Questions and implicit phrases whose answer is one mask. In train each text of a"
    " picture is a conversation; in val and test the first alone, as published. Where"
    " an explanation exists, there is a second conversation that ends with it, and for"
    " about every fifth text a third that has the explanation alone, without a mask:"
    " the published shares of 0.45, 0.45 and 0.1. What is labelled `ignore` counts as"
    " background; published scores leave those pixels out. Two files of test hold no"
    " polygon and are rejected here: users score 777 pictures. The test split came out"
    " later than the others."
  ),
  homepage="https://github.com/dvlab-research/LISA",
  citation="""\
@inproceedings{lai2023lisa,
  title={LISA: Reasoning Segmentation via Large Language Model},
  author={Lai, Xin and Tian, Zhuotao and Chen, Yukang and Li, Yanwei and Yuan, Yuhui and
    Liu, Shu and Jia, Jiaya},
  booktitle={CVPR},
  year={2024},
  note={arXiv:2308.00692}
}
@article{yang2023improved,
  title={LISA++: An Improved Baseline for Reasoning Segmentation with Large Language
    Model},
  author={Yang, Senqiao and Qu, Tianyuan and Lai, Xin and Tian, Zhuotao and Peng, Bohao
    and Liu, Shu and Jia, Jiaya},
  journal={arXiv:2312.17240},
  year={2023}
}
""",
  licence="none stated for the data (the repository is Apache-2.0)",
  layout="""\
SRC/reason_seg/ReasonSeg/         (or SRC/ReasonSeg/, SRC/reason_seg/, SRC itself)
  {train,val,test}/<id>.jpg       sizes are those of the pictures, EXIF applied
  {train,val,test}/<id>.json      {text [str], is_sentence, shapes [{label, points}]}
  explanatory/train.json          list of {image, query, outputs}; may be missing, may
                                  lie in SRC/reason_seg/explanatory/
The JSON files are UTF-8 or cp1252. A label that contains `ignore` is an area that does
not count, `flag` is no label at all; larger shapes are drawn first.
""",
  published={
    "train": {"images": 239},
    "val": {"images": 200},
    "test": {"images": 779},
  },
)


class ReasonSeg(Builder):
  """See CARD. explanations: whether to read them."""

  card = CARD

  def __init__(self, explanations: bool = True):
    self.explanations = explanations

  def options(self):
    return {"explanations": self.explanations}

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    root = _root(src)
    return tuple(split for split in _SPLITS if src.is_dir(f"{root}/{split}"))

  def units(self, src: SourceFolder, split: str) -> Iterator[dict | RecordError]:
    root = _root(src)
    folder = f"{root}/{split}".removeprefix("./")
    with grouped(fields.as_pairs(self._explained(src, root, split))) as explanations:
      yield from fields.errors(explanations)
      pictures = src.list(folder, ".jpg")
      labelled = set(src.list(folder, ".json"))
      for name in pictures:
        file = f"{name.rpartition('.')[0]}.json"
        labelled.discard(file)
        texts = explanations[name.rpartition("/")[2]]
        yield {"image": name, "file": file, "split": split, "explained": texts}
      for file in sorted(labelled):
        yield RecordError(file, WHOLE_FILE, "has no picture of its name (.jpg)")

  def records(self, src: SourceFolder, unit) -> Iterator[SegConversation | RecordError]:
    try:
      content = src.json(unit["file"], fallback_encoding="cp1252")
      texts, is_sentence, shapes = _parse(content)
      photo = read_photo(src, unit["image"])
      rle = _draw(shapes, photo.height, photo.width)
    except RecordError as error:
      yield error
      return
    except ValueError as error:
      yield RecordError(unit["file"], WHOLE_FILE, str(error))
      return
    if unit["split"] != "train":
      texts = texts[:1]
    stem = unit["image"].rpartition("/")[2].rpartition(".")[0]
    for i, text in enumerate(texts):
      for form, turns, targets in _conversations(
        f"{stem}/{i}", text, is_sentence, rle, unit["explained"]
      ):
        yield SegConversation(
          id=f"{stem}/{i}{form}",
          source="reasonseg",
          image=photo.data,
          turns=turns,
          targets=targets,
          image_id=f"reasonseg/{stem}",
        )

  def _explained(self, src, root, split):
    """(file name of a picture, explanation) pairs and errors; all are of train."""
    names = (f"{root}/explanatory/train.json", "reason_seg/explanatory/train.json")
    file = src.first(*names, "explanatory/train.json")
    if not self.explanations or split != "train" or file is None:
      return
    for index, item in enumerate(src.items(file)):
      try:
        item = fields.mapping(item, "the entry")
        name = fields.text(item, "image", 1024)
        outputs = fields.answer(fields.text(item, "outputs"), "outputs")
        if not src.is_file(f"{root}/{split}/{name}"):
          raise ValueError(f"image {name!r} is no picture of {split}")
        yield name, outputs
      except ValueError as error:
        yield RecordError(file, index, str(error))


def _root(src):
  """The folder that holds train, val and test."""
  for root in _ROOTS:
    if any(src.is_dir(f"{root}/{split}") for split in _SPLITS):
      return root
  raise src.missing("folder train, val or test of ReasonSeg")


def _parse(content):
  """(texts, whether they are sentences, [(label, points)]) of a JSON file."""
  content = fields.mapping(content, "the file")
  texts = []
  for text in fields.listed(content, "text", 1000):
    texts.append(fields.text({"text": text}, "text"))
  if not texts:
    raise ValueError("text is an empty list")
  is_sentence = content.get("is_sentence")
  if not isinstance(is_sentence, bool):
    raise ValueError(f"is_sentence is {fields.kind(content, 'is_sentence')}")
  shapes = fields.listed(content, "shapes", MAX_LABELS)
  shapes = [_shape(i, shape) for i, shape in enumerate(shapes)]
  if not any(_is_target(label) for label, _ in shapes):
    raise ValueError("has no polygon of the target")
  return texts, is_sentence, shapes


def read_target(content, height: int, width: int) -> dict:
  """RLE of the target of one of its JSON files. Raises ValueError."""
  return _draw(_parse(content)[2], height, width)


def _shape(i, shape):
  shape = fields.mapping(shape, f"shape {i}")
  label = fields.text(shape, "label", 1000)
  points = fields.listed(shape, "points", MAX_POINTS)
  try:
    points_N2 = np.asarray(points, np.float64).reshape(-1, 2)
  except (TypeError, ValueError, OverflowError):
    raise ValueError(f"shape {i}: points are no list of [x, y]") from None
  if not np.abs(points_N2).max(initial=0) <= mask_ops.MAX_COORDINATE:
    limit = f"{mask_ops.MAX_COORDINATE:g} pixels"
    raise ValueError(f"shape {i}: a coordinate is not finite or past {limit}")
  if _is_target(label) and mask_ops.is_degenerate(points_N2):
    raise ValueError(f"shape {i}: its {len(points_N2)} points enclose nothing")
  return label, points_N2


def _is_target(label):
  return label.lower() != "flag" and "ignore" not in label.lower()


def _draw(shapes, height, width):
  """RLE of the target: what `mask_ops.rasterise_reasonseg` draws as 1."""
  outlines = [points for _, points in shapes]
  mask_ops.check_work(mask_ops.raster_work(outlines, height, width))
  target_HW = mask_ops.rasterise_reasonseg(shapes, height, width) == 1
  if not target_HW.any():
    raise ValueError("its target lies outside the picture, or below what is ignored")
  return mask_ops.encode_rle(target_HW)


def _conversations(name, text, is_sentence, rle, explanations):
  """(suffix of the id, turns, targets) of the conversations about one text."""
  key = f"reasonseg/{name}"
  if is_sentence:
    asked, target = wording.choose("question", key, question=text), NAME
  else:
    asked, target = wording.choose("phrase", key, phrase=text), text
  answer = wording.choose("answer", key, seg=SEG_TOKEN)
  targets = ((target, rle),)
  yield "", (("user", asked), ("assistant", answer)), targets
  for k, explanation in enumerate(explanations):
    kind = "explain" if is_sentence else "explain_phrase"
    asked = wording.choose(kind, key, question=text, phrase=text)
    turns = (("user", asked), ("assistant", f"{answer} {explanation}"))
    yield f"/explained{k}", turns, targets
    if _one_in_five(key):
      asked = text if is_sentence else wording.choose("tell", key, phrase=text)
      yield f"/told{k}", (("user", asked), ("assistant", explanation)), ()


def _one_in_five(key):
  return hashlib.sha256(key.encode()).digest()[0] % 5 == 0
