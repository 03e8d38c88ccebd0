"""PRIST in its published layouts: dialogues with a focus, labelme files of targets."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Iterator

from input_pipeline import prist, prist_folders, safe_files
from input_pipeline.builders import fields
from input_pipeline.builders.builder import Builder, Card
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.prist_dialogue import parse_entry
from input_pipeline.records import RecordError, SegConversation

_ROOTS = ("PRIST/", "")
_NOT_SPLITS = ("meta.json", "synth.json")

CARD = Card(
  name="prist",
  version="1.0.0",
  title="PRIST: pixel-level reasoning in dialogues of several turns",
  description=(
    "Dialogues of three to five rounds about one photograph of TextCaps; the last"
    " answer holds one [SEG], the mask of the `focus`. The paper counts 8.3 thousand"
    " conversations on 2.8 thousand images. Public are the 508 dialogues of the test"
    " split; its photographs and masks and the other splits are not."
    " Focus and label are compared as `miras data check` does."
  ),
  homepage="https://github.com/ccccai239/PixelRIST",
  citation="""\
@inproceedings{cai2025pixel,
  title={Pixel-Level Reasoning Segmentation via Multi-turn Conversations},
  author={Cai, Dexian and Yang, Xiaocui and Liu, Yongkang and Wang, Daling and
    Feng, Shi and Zhang, Yifei and Poria, Soujanya},
  booktitle={ACL},
  year={2025},
  note={arXiv:2502.09447}
}
""",
  licence="none stated for the data (the code folder holds the text of Apache-2.0)",
  layout="""\
SRC/PRIST/                        (or SRC itself)
  <split>.json                    list of {img_id, dialogue [{from, value}], focus}
  photographs, the first folder that has the file:
    images/, <split>/, textcaps/train/, multiturn/<split>/
  labelme files <stem>.json, likewise:
    masks/, <split>/masks/, textcaps/masks/, multiturn/<split>/masks/
labelme files may be cp1252; `focus` null or a list of texts is read, too.
""",
  published={"test": {"conversations": 508, "images": 169}},
)


class Prist(Builder):
  """See CARD. A dialogue that `miras data check` refuses is refused here."""

  card = CARD

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    root = _root(src)
    names = [name.removeprefix(root) for name in src.list(root or ".", ".json")]
    found = [n.removesuffix(".json") for n in names if n not in _NOT_SPLITS]
    if not found:
      raise src.missing("train.json", "test.json")
    known = ("train", "val", "test")
    return tuple(sorted(found, key=lambda n: (known.index(n) if n in known else 3, n)))

  def units(self, src: SourceFolder, split: str) -> Iterator[dict | RecordError]:
    root = _root(src)
    pairs = fields.as_pairs(_entries(src, f"{root}{split}.json"))
    with grouped(pairs) as groups:
      yield from fields.errors(groups)
      for name, entries in groups:
        if name != fields.ERRORS:
          yield {"root": root, "split": split, "img_id": name, "entries": entries}

  def records(self, src: SourceFolder, unit) -> Iterator[SegConversation | RecordError]:
    root, split, name = unit["root"], unit["split"], unit["img_id"]
    below = f"multiturn/{split}/"
    photos = ("images/", f"{split}/", "textcaps/train/", below)
    masks = ("masks/", f"{split}/masks/", "textcaps/masks/", f"{below}masks/")
    with contextlib.ExitStack() as stack:
      labels = prist_folders.annotation_name(name)
      read = prist.PristDataset(
        root=src.root,
        split=split,
        raw_entries=[raw for _, raw in unit["entries"]],
        notes=[],
        images=_folders(src, [f"{root}{folder}" for folder in photos], name, stack),
        masks=_folders(src, [f"{root}{folder}" for folder in masks], labels, stack),
      )
      for i, (index, _) in enumerate(unit["entries"]):
        yield _renumbered(read.load(i), f"{root}{split}.json", index)


def _renumbered(found, file, index):
  """What the reader gives, with the place in the source's own list."""
  if isinstance(found, RecordError):
    return RecordError(file, index, found.reason)
  stem = os.path.splitext(found.image_id)[0]
  return dataclasses.replace(found, id=str(index), image_id=f"openimages/{stem}")


def _folders(src, names, file, stack):
  """The folders for the reader; of a bucket a copy that holds the one file."""
  if "://" not in str(src.root):
    return tuple(prist_folders.Folder(src.path(name), name) for name in names)
  copies = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
  safe_files.check_relative(file)
  for name in names:
    if src.is_file(f"{name}{file}"):
      copy = copies / name / file
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_bytes(src.read(f"{name}{file}"))
  return tuple(prist_folders.Folder(copies / name, name) for name in names)


def _root(src):
  """Where the lists lie: PRIST/ below the source, or the source itself."""
  return next((root for root in _ROOTS if root and src.is_dir(root)), "")


def _entries(src, file):
  """(img_id, [index, entry]) pairs and errors of a list."""
  for index, raw in enumerate(src.items(file)):
    entry = parse_entry(raw)
    if entry.problems:
      yield RecordError(file, index, entry.problems[0])
    else:
      yield entry.img_id, [index, raw]
