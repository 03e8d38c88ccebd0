"""PRIST in its published layouts: dialogues with a focus, labelme files of targets."""

from collections.abc import Iterator

from input_pipeline import image_ops, labelme, prist
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
    files = _Files(src, unit)
    for index, raw in unit["entries"]:
      entry = parse_entry(raw)
      try:
        image, (height, width) = files.photo()
        annotation = files.annotation() if any(entry.focuses) else None
        drawn = files.named(
          prist.draw_targets, entry.focuses, annotation, height, width
        )
      except ValueError as error:
        yield RecordError(files.list, index, str(error))
        continue
      yield SegConversation(
        id=str(index),
        source="prist",
        image=image,
        turns=entry.turns,
        targets=drawn.targets,
        image_id=f"openimages/{files.stem}",
      )


class _Files:
  """Photograph and labels of a unit; each is read once, or fails each time alike."""

  def __init__(self, src, unit):
    self._src, self._root, split = src, unit["root"], unit["split"]
    self.list = f"{self._root}{split}.json"
    self._name = unit["img_id"]
    self.stem = self._name.rpartition(".")[0] or self._name
    below = f"multiturn/{split}/"
    self._photos = ("images/", f"{split}/", "textcaps/train/", below)
    self._masks = ("masks/", f"{split}/masks/", "textcaps/masks/", f"{below}masks/")
    self._read = {}

  def photo(self):
    """(encoded picture, (height, width)). ValueError names the file."""
    return self._once("photo", self._photos, self._name, _checked_photo)

  def annotation(self):
    """`labelme.Annotation` of the picture. ValueError names the file."""
    return self._once("labels", self._masks, f"{self.stem}.json", _checked_labels)

  def named(self, function, *args):
    """`function(*args)`; a ValueError of it names the file of the labels."""
    try:
      return function(*args)
    except ValueError as error:
      file = self._find(self._masks, f"{self.stem}.json")
      raise ValueError(f"{file}: {error}") from None

  def _once(self, key, folders, name, read):
    if key not in self._read:
      self._read[key] = self._attempt(folders, name, read)
    value = self._read[key]
    if isinstance(value, ValueError):
      raise value
    return value

  def _attempt(self, folders, name, read):
    file = name
    try:
      file = self._find(folders, name)
      return read(self._src, file)
    except FileNotFoundError:
      return ValueError(f"{file}: no such file")
    except RecordError as error:
      return ValueError(f"{file}: {error.reason}")
    except (ValueError, image_ops.ImageError) as error:
      return ValueError(f"{file}: {error}")

  def _find(self, folders, name):
    names = [f"{self._root}{folder}{name}" for folder in folders]
    return self._src.first(*names) or names[0]


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


def _checked_photo(src, file):
  data = src.read(file)
  return data, image_ops.decode_image(data).shape[:2]


def _checked_labels(src, file):
  return labelme.parse_annotation(src.json(file, fallback_encoding="cp1252"))
