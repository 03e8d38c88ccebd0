"""Reads a data set in PRIST's own layout; strict, and every defect has a line.

    ROOT/train.json, val.json, ...   lists of {img_id, dialogue, focus}; one is a split
    ROOT/images/ or ROOT/<split>/    photographs
    ROOT/masks/ or ROOT/<split>/masks/   one labelme file per photograph, <stem>.json

Dialogues are checked when the list is read; photographs and masks when a record is
asked for. Duplicate records are kept (and noted); of a key given twice in one object
the last value counts; `meta.json` and `synth.json` are no splits. Nothing outside the
folders is read.
"""

import dataclasses
import hashlib
import json
import os

from input_pipeline import exif, image_ops, labelme, mask_ops, safe_files
from input_pipeline.prist_dialogue import parse_entry
from input_pipeline.prist_folders import (
  Defect,
  annotation_name,
  beside,
  check_root,
  find_file,
  find_folders,
)
from input_pipeline.records import WHOLE_FILE, Problem, RecordError, SegConversation
from input_pipeline.source import Dialogue, Source
from miras_jax.errors import UserError

_NOT_A_SPLIT = ("meta.json", "synth.json")  # what made the data set, for analysis


def find_splits(root: str | os.PathLike) -> list[str]:
  """Names of the splits under `root`, sorted. Raises UserError when there is none."""
  root = check_root(root)
  files = (p.name for p in root.glob("*.json") if p.name not in _NOT_A_SPLIT)
  names = sorted(name.removesuffix(".json") for name in files)
  if not names:
    raise UserError(
      f"{root}: holds no split (train.json, val.json, ...); "
      "`miras data synth --out DIR` makes a data set"
    )
  return names


def read_dataset(
  root: str | os.PathLike,
  split: str,
  images_dir: str | os.PathLike | None = None,
  masks_dir: str | os.PathLike | None = None,
) -> "PristDataset":
  """Reads `ROOT/<split>.json` -> PristDataset.

  Args:
    root: folder of the data set.
    split: name of a list at its root, without `.json`.
    images_dir: folder of the photographs, when not under `root` as described above.
    masks_dir: folder of the labelme files, likewise; by default also `masks/` in
      `images_dir`.

  Raises:
    UserError: no such folder or split.
    RecordError: the list as a whole is unusable (its `record` is "-").
  """
  root = check_root(root)
  file = f"{split}.json"
  if split not in find_splits(root):
    known = ", ".join(find_splits(root))
    raise UserError(f"{root}: holds no split {split!r}; it has {known}")
  raw_entries, notes = _read_list(root, file)
  masks_dir = masks_dir or beside(images_dir)
  return PristDataset(
    root=root,
    split=split,
    raw_entries=raw_entries,
    notes=notes,
    images=find_folders(root, images_dir, ("images", split)),
    masks=find_folders(root, masks_dir, ("masks", f"{split}/masks")),
  )


class PristDataset(Source):
  """A source, and a list-like of SegConversation, one per record, in their order.

  `dataset[i]` raises RecordError for a defective record; `load(i)` returns it instead,
  so that training can go on with a named, counted example of zero weight. Beyond a
  source it says what is odd about its records, for `miras data check` and `stats`:
  `entries`, `examine`, `notes`, `problems`, `ambiguous`.
  """

  def __init__(self, *, root, split, raw_entries, notes, images, masks):
    self.root = root
    self.split = split
    self.file = f"{split}.json"
    self.entries = tuple(parse_entry(raw) for raw in raw_entries)
    self.ids = tuple(f"{split}/{i}" for i in range(len(self.entries)))
    self.image_ids = tuple(_image_id(entry.img_id) for entry in self.entries)
    self._notes = list(notes)
    self._images = images
    self._masks = masks
    self._image_sizes = {}  # img_id -> (height, width) of images that decode whole
    self._turn_notes = {}  # img_id -> why its EXIF orientation is ignored, or ""
    self._targets = {}  # record -> its _Targets
    # (img_id, what was read) of the last photograph and the last annotation: the
    # conversations of an image are read one after the other.
    self._last_image = self._last = None
    texts = [_canonical(raw) for raw in raw_entries]
    self._first = _first_equal(texts)
    self._digest = _digest(self.ids, texts)

  def __len__(self):
    return len(self.entries)

  def __getitem__(self, i):
    record = self.load(i)
    if isinstance(record, RecordError):
      raise record
    return record

  def __iter__(self):
    return (self[i] for i in range(len(self)))

  def load(self, i):
    """SegConversation of record `i`, or the RecordError that says why there is none."""
    i = range(len(self))[i]
    entry = self.entries[i]
    if entry.problems:
      return RecordError(self.file, i, entry.problems[0])
    try:
      image = self._read_image(entry.img_id)
      targets = self._read_targets(i, self._image_sizes[entry.img_id])
    except Defect as e:
      return RecordError(self.file, i, str(e))
    return SegConversation(
      id=self.ids[i],
      source="prist",
      image=image,
      turns=entry.turns,
      targets=targets.targets,
      image_id=_image_id(entry.img_id),
    )

  def dialogues(self):
    """What each record says; reads no image, so a missing one is not noticed."""
    for entry in self.entries:
      if entry.problems:
        yield None
      else:
        yield Dialogue(entry.turns, [focus or "" for focus in entry.focuses])

  def examine(self, i):
    """Everything wrong with record `i` -> (problems, notes), two lists of Problem."""
    entry = self.entries[i]
    problems, notes = list(entry.problems), list(entry.notes)
    if self._first[i] != i:
      notes.append(f"is equal to record {self._first[i]}; both are kept")
    if entry.img_id is not None:
      self._examine_files(i, problems, notes)
    return [
      [Problem(self.file, i, reason) for reason in reasons]
      for reasons in (problems, notes)
    ]

  def notes(self):
    """What is odd about the list as a whole: Problems that refuse nothing."""
    return [Problem(self.file, WHOLE_FILE, note) for note in self._notes]

  def problems(self):
    """Every defect of every record, in order; decodes each image once."""
    return [p for i in range(len(self)) for p in self.examine(i)[0]]

  def ambiguous(self, i):
    """For how many focuses of record `i`, once loaded, the published rule would merge
    shapes of several labels (`labelme.Choice`)."""
    return self._targets[i].ambiguous if i in self._targets else 0

  def fingerprint(self):
    """SHA-256 over record ids and dialogues: equal for equal data, on any machine."""
    return self._digest

  def files_fingerprint(self):
    """Digest of names and bytes of the photographs and annotations of all records."""
    digest = hashlib.sha256()
    for img_id in sorted({entry.img_id for entry in self.entries if entry.img_id}):
      names = (img_id, annotation_name(img_id))
      for folders, name in zip((self._images, self._masks), names, strict=True):
        digest.update(json.dumps([name, self._size_of(folders, name)]).encode())
    return digest.hexdigest()[:16]

  def _size_of(self, folders, name):
    """Bytes of a file; None where there is none that may be read."""
    try:
      return find_file(folders, name)[0].stat().st_size
    except (Defect, OSError):
      return None

  def _examine_files(self, i, problems, notes):
    entry = self.entries[i]
    size = None
    try:
      self._read_image(entry.img_id)
      size = self._image_sizes[entry.img_id]
    except Defect as e:
      problems.append(str(e))
    notes += filter(None, [self._turn_notes.get(entry.img_id)])
    if not any(entry.focuses or ()):
      return
    try:
      if size is None:
        notes += self._read_annotation(entry.img_id)[0].notes
      else:
        notes += self._read_targets(i, size).notes
    except Defect as e:
      problems.append(str(e))

  def _read_image(self, img_id):
    """The encoded image, proven to decode whole the first time it is read.

    Without its EXIF orientation where the annotation is for the pixels as stored.
    """
    last = self._last_image
    if last is None or last[0] != img_id:
      last = self._last_image = img_id, self._open_image(img_id)
    return last[1]

  def _open_image(self, img_id):
    path, shown = find_file(self._images, img_id)
    try:
      data = safe_files.read_bytes(path, safe_files.MAX_IMAGE_BYTES)
      if self._is_used_as_stored(img_id, data, shown):
        data = exif.without_orientation(data)
      if img_id not in self._image_sizes:
        image_ops.decode_image(data)
        self._image_sizes[img_id] = image_ops.image_size(data)
    except FileNotFoundError:
      raise Defect(f"{shown}: no such file") from None
    except (ValueError, image_ops.ImageError) as e:
      raise Defect(f"{shown}: {e}") from None
    return data

  def _is_used_as_stored(self, img_id, data, shown):
    """Whether the EXIF orientation that an image has is to be ignored."""
    if (turn := exif.orientation(data)) == 1:
      return False
    if img_id not in self._turn_notes:
      height, width = image_ops.image_size(exif.without_orientation(data))
      self._turn_notes[img_id] = (
        f"{shown}: its EXIF orientation ({turn}) is ignored: its annotation is for"
        f" the {width}x{height} pixels as they are stored"
        if self._is_for_stored_size(img_id, height, width, turn)
        else ""
      )
    return bool(self._turn_notes[img_id])

  def _is_for_stored_size(self, img_id, height, width, turn):
    if not exif.is_quarter_turn(turn):
      return False  # the size does not tell: what viewers show counts
    try:
      annotation = self._read_annotation(img_id)[0]
    except Defect:
      return False
    fits = labelme.fits_size
    return fits(annotation, height, width) and not fits(annotation, width, height)

  def _read_targets(self, i, size):
    if i not in self._targets:
      self._targets[i] = self._make_targets(i, *size)
    return self._targets[i]

  def _make_targets(self, i, height, width):
    entry = self.entries[i]
    targets, notes, ambiguous = [], [], 0
    annotation, shown, doubt = None, "", ""
    if any(entry.focuses):
      annotation, shown = self._read_annotation(entry.img_id)
      notes += annotation.notes
    try:
      if annotation:
        labelme.check_size(annotation, height, width)
      choices = {
        focus: labelme.select_shapes(annotation.shapes, focus)
        for focus in filter(None, entry.focuses)
      }
      doubt = labelme.code_page_note(annotation, choices) if annotation else ""
      labelme.check_work(choices.values(), height, width)
      made = {
        focus: labelme.focus_rle(choice.shapes, focus, height, width)
        for focus, choice in choices.items()
      }
      for focus in entry.focuses:
        if focus is None:
          targets.append(("", mask_ops.empty_rle(height, width)))
          continue
        choice, (rle, dropped) = choices[focus], made[focus]
        targets.append((focus, rle))
        notes += [f"{shown}: {n}" for n in (choice.note, *dropped) if n]
        ambiguous += choice.ambiguous
    except ValueError as e:
      raise Defect(f"{shown}: {e}{doubt and f'; {doubt}'}") from None
    notes += [f"{shown}: {doubt}"] if doubt else []
    return _Targets(tuple(targets), tuple(notes), ambiguous)

  def _read_annotation(self, img_id):
    """(Annotation, its file as shown in messages)."""
    last = self._last
    if last is None or last[0] != img_id:
      last = self._last = img_id, self._parse_annotation(img_id)
    return last[1]

  def _parse_annotation(self, img_id):
    path, shown = find_file(self._masks, annotation_name(img_id))
    try:
      annotation = labelme.read_annotation(path)
    except FileNotFoundError:
      raise Defect(f"{shown}: no such file") from None
    except ValueError as e:
      raise Defect(f"{shown}: {e}") from None
    bad = [
      f"{s.name} is no target and not usable: {s.defect}"
      for s in annotation.shapes
      if s.defect
    ]
    notes = tuple(f"{shown}: {note}" for note in (*annotation.notes, *bad))
    return dataclasses.replace(annotation, notes=notes), shown


@dataclasses.dataclass(frozen=True)
class _Targets:
  targets: tuple
  notes: tuple[str, ...]
  ambiguous: int


def _read_list(root, file):
  """(records, notes) of a list file; RecordError when the file is no list."""
  try:
    path = safe_files.resolve_inside(root, file)
    data = safe_files.read_bytes(path, safe_files.MAX_LIST_BYTES)
    value, repeated = safe_files.parse_json(data)
    if not isinstance(value, list):
      raise ValueError(f"holds a {type(value).__name__}, want a list of records")
    if not value:
      raise ValueError("holds an empty list: there is nothing to do")
  except FileNotFoundError:
    raise RecordError(file, WHOLE_FILE, "no such file") from None
  except safe_files.TooLarge as e:
    reason = f"{e}; `miras data build prist` reads lists of any size"
    raise RecordError(file, WHOLE_FILE, reason) from None
  except ValueError as e:
    raise RecordError(file, WHOLE_FILE, str(e)) from None
  return value, safe_files.repeated_notes(repeated)


def _image_id(img_id):
  """The one name of an image, however its path is written."""
  return safe_files.forward(img_id or "")


def _canonical(raw):
  try:
    return json.dumps(raw, sort_keys=True)
  except RecursionError:
    return "nested too deeply"


def _first_equal(texts):
  """For each text the index of the first one equal to it."""
  seen = {}
  return tuple(seen.setdefault(text, i) for i, text in enumerate(texts))


def _digest(ids, texts):
  digest = hashlib.sha256()
  for record_id, text in zip(ids, texts, strict=True):
    digest.update(f"{record_id}\0{text}\0".encode("utf-8", "backslashreplace"))
  return digest.hexdigest()
