"""One's own photographs with labels of any tool: `miras data build own`.

Conversations that came with the labels are used as they are; where there are none they
are written from the labels (`input_pipeline.narrate`).
"""

import functools
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

from tqdm import tqdm

from input_pipeline import mask_ops, safe_files
from input_pipeline.annotations import canvas, find, layout
from input_pipeline.annotations import names as class_names
from input_pipeline.builders import split_by_photograph
from input_pipeline.builders.builder import Builder, Card, Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.narrate import views as narrate_views
from input_pipeline.narrate import wordings as narrate_wordings
from input_pipeline.narrate import write as narrate_write
from input_pipeline.records import (
  WHOLE_FILE,
  Problem,
  RecordError,
  SegConversation,
)
from miras_jax.errors import UserError

SPLITS = "train:0.8,val:0.1,test:0.1"
PER_PHOTO = 6
MAX_PER_PHOTO = 1000
MAX_VIEWS = 64
TRAIN = "train"  # the split whose photographs are shown in several views
LAYOUT = """\
photographs and the labels of one tool, in the tool's own layout, for example
  images/a.jpg, images/a.json                       labelme
  train/a.jpg, train/_annotations.coco.json         COCO JSON (Roboflow's is one)
  images/train/a.jpg, labels/train/a.txt, data.yaml YOLO-seg
  images/a.jpg, masks/a.png, labels.json            numbers of classes and their names
  images/a.jpg, masks/a_hat.png                     one PNG of 0 and 255 for each name
  images/a.jpg, export.json                         Label Studio (JSON)
  images/a.jpg, masks/a.json, train.json            PRIST, with dialogues
Folders train, val (valid), test state the splits; --splits divides anew."""


class Own(Builder):
  """See the card.

  Args:
    form: one of `find.FORMS`; "": found by looking.
    names: file with the names of the classes, where `src` holds none.
    splits: "train:0.8,val:0.1,test:0.1", "test:1"; "": those that the files state, else
      as the first of these.
    wordings: file of questions and answers in the user's language; "": English.
    per_photo: most conversations that are written for a photograph.
    short: most talks of one round that are written besides, in the split "train".
    views: pictures made of each photograph of the split "train" that has no dialogues
      of its own: itself, its mirror image, crops of both in turn.
    edits: share of the written conversations that go on from their mask.
  """

  card = Card(
    name="own",
    version="1.0.0",
    title="one's own photographs and labels",
    description=(
      "Photographs with masks from labelme, Label Studio, COCO JSON, YOLO-seg, index or"
      " one-hot PNGs, with dialogues (PRIST) or with conversations written from the"
      " labels."
    ),
    homepage="the tool that you label with",
    citation="",
    licence="that of the photographs and labels",
    layout=LAYOUT,
  )

  def __init__(
    self,
    form="",
    names="",
    splits="",
    wordings="",
    per_photo=PER_PHOTO,
    short=0,
    views=1,
    edits=0.0,
  ):
    if form and form not in find.FORMS:
      raise UserError(f"--form={form}: is none of {', '.join(find.FORMS)}")
    if not 1 <= per_photo <= MAX_PER_PHOTO:
      raise UserError(f"--per_photo={per_photo}: want 1 to {MAX_PER_PHOTO}")
    if not 0 <= short <= MAX_PER_PHOTO:
      raise UserError(f"--short={short}: want 0 to {MAX_PER_PHOTO}")
    if not 1 <= views <= MAX_VIEWS:
      raise UserError(f"--views={views}: want 1 to {MAX_VIEWS}")
    if not 0 <= edits <= 1:
      raise UserError(f"--edits={edits}: want 0 to 1")
    self._form_name, self._splits, self._per_photo = form, splits, per_photo
    self._short, self._views, self._edits = short, views, edits
    self._shares = split_by_photograph.parse(splits or SPLITS)
    self._names = class_names.from_path(names) if names else None
    self._wordings_file = wordings or str(narrate_wordings.ENGLISH)
    self._wordings = narrate_wordings.Wordings.load(pathlib.Path(self._wordings_file))
    self._form = self._chosen = self._listed = None
    self._errors = []

  def __getstate__(self):
    """A worker makes its form anew, without what this process read for the list."""
    fresh = {"_form": None, "_chosen": None, "_listed": None, "_errors": []}
    return self.__dict__ | fresh

  def options(self) -> Mapping:
    wordings = pathlib.Path(self._wordings_file).read_bytes()
    return {
      "form": self._form_name,
      "names": {str(number): name for number, name in (self._names or {}).items()},
      "splits": self._splits,
      "wordings": hashlib.sha256(wordings).hexdigest()[:16],
      "per_photo": self._per_photo,
      "short": self._short,
      "views": self._views,
      "edits": self._edits,
    }

  def files_digest(self, src: SourceFolder) -> str:
    return layout.digest(src)

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    found = set(self._assignment(src).values())
    known = [*self._shares, "train", "val", "test"]
    return tuple(sorted(found, key=lambda s: (known + [s]).index(s)))

  def units(self, src: SourceFolder, split: str) -> Iterator[Unit | RecordError]:
    chosen = self._assignment(src)
    form = self._form_of(src)
    if split == self.splits(src)[0]:
      yield from self._errors  # once: they belong to no split
    seen = set()
    for unit in self._units():
      key = _key(unit)
      if chosen[key] != split:
        continue
      if key in seen:
        yield RecordError(unit["image"], WHOLE_FILE, "is labelled a second time")
        continue
      seen.add(key)
      chosen_unit = {**unit, "split": split, "form": form.name}
      yield chosen_unit
      for view in range(1, self._views if split == TRAIN else 1):
        yield chosen_unit | {"view": view}

  def records(
    self, src: SourceFolder, unit: Unit
  ) -> Iterator[SegConversation | RecordError | Problem]:
    form = self._form_of(src, unit["form"])
    view, name = unit.get("view", 0), "/".join(_key(unit))
    try:
      photo = form.read(src, unit)
    except RecordError as error:
      if not view:  # a defect is told once
        yield error
      return
    if not view:
      yield from photo.defects
      yield from (Problem(unit["image"], WHOLE_FILE, note) for note in photo.notes)
    photo, talks = self._talks(photo, view, self._short * (unit["split"] == TRAIN))
    if not talks and not view:
      reason = "no conversation can be written from its labels"
      yield Problem(unit["image"], WHOLE_FILE, reason)
    image_id = f"own/{hashlib.sha256(photo.image).hexdigest()[:16]}"
    for number, (turns, targets) in enumerate(talks):
      yield SegConversation(
        id=f"{name}/{view}/{number}" if view else f"{name}/{number}",
        source="own",
        image=photo.image,
        turns=turns,
        targets=targets,
        image_id=image_id,
      )

  def _talks(self, photo, view, short):
    """(photograph as it is seen, conversations about it and `short` ones besides)."""
    if photo.dialogues:
      return photo, [] if view else _from_files(photo)
    image_HWC = canvas.decode(photo.image)
    photo, image_HWC = narrate_views.view(photo, image_HWC, view)
    write = functools.partial(
      narrate_write.write, photo, image_HWC, photo.image_id, wordings=self._wordings
    )
    talks = write(per_photo=self._per_photo, edits=self._edits)
    if talks and short:
      talks += write(per_photo=short, mix=narrate_write.SHORT)
    return photo, talks

  def _form_of(self, src, name=""):
    name = name or self._form_name
    if self._form is None or (name and self._form.name != name):
      make = find.make_form
      self._form = make(name, self._names) if name else find.find_form(src, self._names)
    return self._form

  def found(self, src: SourceFolder) -> str:
    form = self._form_of(src)
    return f"{form.name}: {form.found(src) or 'nothing that looks like it'}"

  def _assignment(self, src):
    """{key of a unit: split}, of all photographs. Lists them once, into a file: a unit
    holds the polygons of its photograph, and the files are read from end to end."""
    if self._chosen is None:
      stated, self._errors = {}, []
      self._listed = tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl")
      for unit in self._form_of(src).units(src):
        if isinstance(unit, RecordError):
          self._errors.append(unit)
          continue
        if not safe_files.is_text(unit["image"]):
          reason = "its name is not UTF-8; rename the file"
          self._errors.append(RecordError(unit["image"], WHOLE_FILE, reason))
          continue
        stated[_key(unit)] = unit.get("split")
        self._listed.write(json.dumps(unit) + "\n")
      self._listed.flush()
      if not stated:
        raise self._errors[0] if self._errors else src.missing("photograph with labels")
      self._chosen = self._divide(src, stated)
    return self._chosen

  def _units(self):
    with open(self._listed.name, encoding="utf-8") as lines:
      yield from map(json.loads, lines)

  def _divide(self, src, stated):
    without = [key for key, split in stated.items() if split is None]
    if not self._splits and len(without) < len(stated):
      if without:
        raise UserError(
          f"--src={src.root}: {without[0][-1]} and {len(without) - 1:,} more"
          " photographs lie in no split, others do; choose --splits="
          f"{SPLITS} to divide them all"
        )
      return stated
    if len(self._shares) == 1:
      return dict.fromkeys(stated, next(iter(self._shares)))
    images = sorted({key[-1] for key in stated})
    bar = tqdm(images, "looking for copies", unit="image", leave=False)
    read = (_described(src, name) for name in bar)
    chosen = split_by_photograph.assign(read, self._shares)
    return {key: chosen[key[-1]] for key in stated}


def _key(unit) -> tuple[str, ...]:
  """What a unit is about: (photograph,), of one of several lists (list, photograph)."""
  return tuple(filter(None, (unit.get("list"), unit["image"])))


def _described(src, name):
  key = layout.photograph_key(name)
  try:
    return split_by_photograph.describe(name, key, src.read(name))
  except (OSError, ValueError):  # `records` names it
    return split_by_photograph.Photograph(name, key, digest=name)


def _from_files(photo):
  """(turns, targets) of each dialogue that came with a photograph."""
  masks = {region.name: region.rle for region in photo.regions}
  empty = mask_ops.empty_rle(photo.height, photo.width)
  return [
    (turns, tuple((name, masks[name] if name else empty) for name in names))
    for turns, names in photo.dialogues
  ]
