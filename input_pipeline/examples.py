"""One record -> one example: three views, token row, masks. numpy, static shapes.

What an example holds is `batch_table.TABLE`; its letters are the suffixes here.
"""

import dataclasses
import logging
import threading

import numpy as np

from input_pipeline import batch_table, image_ops, mask_canvas, packing, prepared
from input_pipeline.augment import augmented
from input_pipeline.conversation import ConversationError, encode_conversation
from input_pipeline.mixture import Mixture
from input_pipeline.prepared import Prepared
from input_pipeline.records import Problem, RecordError
from input_pipeline.slots import fill
from input_pipeline.templates import TEMPLATES

VIEWS = ("letterbox", "center_crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """Shapes of an example and how text and image enter it. Sizes are pixels.

  `aux_size` 0: nothing looks at the second view, and none is made. `slot_side`: of
  earlier masks, which [SEG] see, the latest `slots` of them; 0: they see none.
  `slot_tokens`: of each earlier mask, in the row after the answer that made it.

  `max_len` counts the image tokens; it may hold more than the model needs, never less
  than system text, image, last round and the round of the last [SEG].
  """

  max_len: int
  max_masks: int
  sam_size: int
  aux_size: int
  num_image_tokens: int
  view: str = "letterbox"
  template: str = "llava_v1"
  system: str | None = None
  name_targets: bool = False
  slot_side: int = 0
  slots: int = 8
  slot_tokens: int = 0

  def __post_init__(self):
    for name in ("max_len", "max_masks", "sam_size"):
      if getattr(self, name) < 1:
        raise ValueError(f"{name}={getattr(self, name)} is not positive")
    if self.slot_side and self.sam_size % self.slot_side:
      raise ValueError(f"{self.sam_size=} is not a multiple of {self.slot_side=}")
    if self.aux_size < 0:
      raise ValueError(f"aux_size={self.aux_size} is negative")
    if self.view not in VIEWS:
      raise ValueError(f"view={self.view!r} is not one of {', '.join(VIEWS)}")
    if self.template not in TEMPLATES:
      raise ValueError(f"template={self.template!r} is not one of {TEMPLATES}")
    if not 0 <= self.num_image_tokens < self.max_len:
      raise ValueError(f"{self.num_image_tokens=} leaves no text in {self.max_len=}")

  def sizes(self, pad: int) -> dict[str, int]:
    """The lengths that `batch_table.TABLE` wants; pad: the tokenizer's padding id."""
    return {
      "T": self.max_len,
      "M": self.max_masks,
      "S": self.sam_size,
      "A": self.aux_size,
      "N": self.num_image_tokens,
      "E": self.max_masks,
      "Q": self.slot_side,
      "pad": pad,
    }

  def text_options(self) -> dict:
    """The options of encode_conversation and encode_prompt."""
    return {
      "template": self.template,
      "system": self.system,
      "num_image_tokens": self.num_image_tokens,
      "name_targets": self.name_targets,
      "max_len": self.max_len,
      "slot_tokens": self.slot_tokens,
    }


VIEWS_OF_IMAGE = ("image_sam", "image_aux", "valid_hw", "original_hw")


def make_views(image, cfg, *, has_masks=True):
  """Encoded bytes -> image_sam, image_aux (uint8), valid_hw, original_hw (int32).

  has_masks: False leaves SAM's view black, which nothing but a mask looks at.
  """
  image_HWC = image_ops.decode_image(image)
  original_hw = image_HWC.shape[:2]
  if has_masks:
    sam_SSC, valid_hw = image_ops.sam_view(image_HWC, cfg.sam_size)
  else:
    sam_SSC = batch_table.filled("image_sam", cfg.sizes(0))
    valid_hw = image_ops.resized_hw(*original_hw, cfg.sam_size)
  return {
    "image_sam": sam_SSC,
    "image_aux": _aux_view(image_HWC, cfg),
    "valid_hw": np.array(valid_hw, np.int32),
    "original_hw": np.array(original_hw, np.int32),
  }


def _aux_view(image_HWC, cfg):
  if not cfg.aux_size:
    return batch_table.filled("image_aux", cfg.sizes(0))
  return image_ops.aux_view(image_HWC, cfg.aux_size, cfg.view)


def make_row(record, tokenizer, cfg):
  """SegConversation -> (token arrays (T,) and target arrays (M,), masks kept)."""
  row, targets = encode_record(record, tokenizer, cfg)
  return pad_row(row, tokenizer, cfg), targets


def encode_record(record, tokenizer, cfg):
  """SegConversation -> (Encoded, targets kept); ConversationError where it is unfit."""
  names, options = [name for name, _ in record.targets], cfg.text_options()
  if not record.has_picture:
    if names:
      raise ConversationError(f"has no picture but {len(names)} masks")
    options["num_image_tokens"] = 0
  row = encode_conversation(record.turns, tokenizer, names=names, **options)
  count = len(row.seg_pos_K)
  if count > cfg.max_masks:
    raise ConversationError(
      f"holds {count} [SEG], the limit is max_masks={cfg.max_masks}"
    )
  return row, record.targets[row.dropped_targets :]


def pad_row(row, tokenizer, cfg):
  """Encoded -> `batch_table.row_names()`: int32 arrays padded to (T,) and (M,)."""
  segments_L = row.segments_L
  if segments_L is None:
    segments_L = np.ones_like(row.tokens_L)
  values = {
    "tokens": row.tokens_L,
    "loss_mask": row.loss_mask_L,
    "positions": row.positions_L,
    "segments": segments_L,
    "image_slot": row.image_slot_L,
    "seg_pos": row.seg_pos_K,
    "obj_pos": row.obj_pos_K,
    "seg_valid": np.ones_like(row.seg_pos_K),
  }
  sizes = cfg.sizes(tokenizer.ids.pad)
  values = {name: batch_table.padded(name, x, sizes) for name, x in values.items()}
  return batch_table.complete(values, sizes, batch_table.row_names())


def make_masks(targets, original_hw, cfg):
  """[(name, RLE)] -> masks_KSS uint8 0/1 on the padded SAM canvas."""
  image_hw = tuple(map(int, original_hw))
  masks = np.zeros((len(targets), cfg.sam_size, cfg.sam_size), np.uint8)
  for k, (name, rle) in enumerate(targets):
    try:
      masks[k] = mask_canvas.rle_to_canvas(rle, cfg.sam_size)
    except ValueError as e:
      raise ConversationError(f"the mask of {name!r}: {e}") from None
    if tuple(rle["size"]) != image_hw:
      raise ConversationError(
        f"the mask of {name!r} is {tuple(rle['size'])}, the image {image_hw}"
      )
  return masks


def empty_example(tokenizer, cfg, *, record, features=None, asked=()):
  """An example of zero weight: no loss, no mask; one visible token keeps softmax sane.

  record: index of the defective record, -1 where a last batch is only filled up.
  features: the FeatureCache whose features take the place of pixels, if any.
  asked: arrays that are there only when they are asked for.
  """
  sizes = cfg.sizes(tokenizer.ids.pad) | (features.sizes if features else {})
  values = {
    "segments": batch_table.padded("segments", [1], sizes),
    "record": batch_table.padded("record", record, sizes),
  }
  names = batch_table.names([*(features.shapes if features else ()), *asked])
  return batch_table.complete(values, sizes, names)


class Problems:
  """Defective records by index; each is reported once, however often it is drawn."""

  def __init__(self, report=None, by_index=None):
    """by_index: those that are known, reported right away; more are added to it."""
    self._report = report or logging.getLogger("input_pipeline").warning
    self._lock = threading.Lock()
    self.by_index = {} if by_index is None else by_index
    for problem in list(self.by_index.values()):
      self._tell(problem)

  def add(self, index, problem):
    with self._lock:
      if index in self.by_index:
        return
      self.by_index[index] = problem
    self._tell(problem)

  def _tell(self, problem):
    self._report(f"{problem} (trains with weight zero)")

  def __len__(self):
    return len(self.by_index)


class Examples:
  """Prepared examples of a data set by index; a defect gives `empty_example`.

  dataset: a Source; examples of a Mixture have `source`.
  cache: keeps every row and every view in memory, uint8 and masks as bits, so that an
    image is decoded and a conversation tokenised once: about S*S*3 + A*A*3 bytes an
    image and K*S*S/8 + 20*T a row. See also `prepared.shared`.
  features: FeatureCache; `views` says what is in its place.
  augment: Augment; what it changes differs each time that an example is drawn, so it
    goes with neither.
  slots: slots.fill.Draws, how earlier masks differ from those of the data set; None:
    they are those.
  lean: SAM's view of a row without a mask stays black. For training, where nothing
    looks at it; in an evaluation the model may answer with a [SEG] of its own.
  """

  def __init__(
    self,
    dataset,
    tokenizer,
    cfg,
    *,
    cache=False,
    features=None,
    augment=None,
    report=None,
    lean=False,
    slots=None,
  ):
    if augment and (cache or features):
      raise ValueError("what is prepared once cannot be augmented each time")
    self.dataset = dataset
    self.tokenizer = tokenizer
    self.cfg = cfg
    self.features = features
    self._augment = augment if augment and augment.is_on() else None
    self._sizes = cfg.sizes(tokenizer.ids.pad) | (features.sizes if features else {})
    self._asked = ("source",) if isinstance(dataset, Mixture) else ()
    self._asked += batch_table.SLOTS if cfg.slot_side else ()
    self._slots = slots
    self._names = batch_table.names(
      [*(features.shapes if features else ()), *self._asked]
    )
    self._lean = lean
    kept = Prepared()
    if cache and not features:
      kept = prepared.find(dataset, tokenizer, cfg, lean=lean)
    self.problems = Problems(report, kept.problems)
    self._rows, self._views = (kept.rows if cache else None), kept.views

  def __len__(self):
    return len(self.dataset)

  def __getitem__(self, index):
    """Example `index`, a number or a Draw; -1 is the filler of a last batch."""
    index, epoch = int(index), getattr(index, "epoch", 0)
    if index < 0:
      return self._empty(-1)
    if self._rows is None:
      parts = self._prepare(index, epoch)
    else:
      parts = self._rows.get(index) or self._rows.setdefault(
        index, self._prepare(index)
      )
    return self._assemble(index, epoch, *parts)

  def members(self, index) -> tuple[int, ...]:
    """Indices of the records that example `index` is made of."""
    return self.dataset.members(index)

  def _prepare(self, index, epoch=0):
    """(views, row, packed masks), or (None, None, None) where no record is sound."""
    records = self.dataset.load(index)
    if not isinstance(records, tuple):
      records = (records,)
    if self._augment:
      records = self._augmented(records, epoch)
    known = {} if self._rows is None else self._views
    has_masks = not self._lean or any(getattr(r, "targets", ()) for r in records)
    parts = [
      self._parts(number, record, known, has_masks)
      for number, record in zip(self.members(index), records, strict=True)
    ]
    sound = [part for part in parts if part]
    if not sound:
      return None, None, None
    views, rows, masks = zip(*sound, strict=True)
    row = rows[0] if len(records) == 1 else packing.join(rows, self.cfg.slot_tokens)
    row = pad_row(row, self.tokenizer, self.cfg)
    return views[0], row, np.packbits(np.concatenate(masks))

  def _augmented(self, records, epoch):
    """The records of a row with another picture, as they are where one is defective."""
    if any(isinstance(r, RecordError) or not r.image for r in records):
      return records
    return augmented(records, self._augment, epoch)

  def _parts(self, number, record, known, has_masks):
    """(views, Encoded, masks_KSS) of one record, or None after reporting its defect.

    known: views by image, to which this record's are added. has_masks: of the row.
    """
    if isinstance(record, RecordError):
      self.problems.add(number, record.problem)
      return None
    try:
      row, targets = encode_record(record, self.tokenizer, self.cfg)
      views = self._views_of(record, known, has_masks)
      return views, row, make_masks(targets, views["original_hw"], self.cfg)
    except (ConversationError, image_ops.ImageError) as e:
      file = self.dataset.file_of(number)
      problem = Problem(file, _record_number(record, number), str(e))
      self.problems.add(number, problem)
      return None

  def _views_of(self, record, known, has_masks):
    key = (record.source, record.image_id or record.id, has_masks)
    if key not in known:
      known[key] = self._make_views(record, has_masks)
    return known[key]

  def _make_views(self, record, has_masks):
    """Views of a record's image, or the cached features that stand for them.

    Those of a record without a picture are blank.
    """
    if record.has_picture and not record.image:
      raise ConversationError(f"the picture of {record.image_id!r} has no bytes")
    if not record.image:
      wanted = (*VIEWS_OF_IMAGE, *(self.features.shapes if self.features else ()))
      names = [name for name in self._names if name in wanted]
      return {name: batch_table.filled(name, self._sizes) for name in names}
    if not self.features:
      return make_views(record.image, self.cfg, has_masks=has_masks)
    name = record.image_id or record.id
    cached = self.features.views(record.image, name)
    left = batch_table.pixel_names(self.features.shapes)
    pixels = [n for n in left if 0 not in batch_table.example_shape(n, self._sizes)]
    if not pixels:
      return cached
    views = make_views(record.image, self.cfg, has_masks=has_masks)
    return cached | {name: views[name] for name in pixels}

  def _empty(self, index):
    return empty_example(
      self.tokenizer,
      self.cfg,
      record=index,
      features=self.features,
      asked=self._asked,
    )

  def _assemble(self, index, epoch, views, row, packed):
    if row is None:
      return self._empty(index)
    cfg = self.cfg
    masks = np.zeros((cfg.max_masks, cfg.sam_size, cfg.sam_size), np.uint8)
    bits = int(row["seg_valid"].sum()) * cfg.sam_size**2
    masks.reshape(-1)[:bits] = np.unpackbits(packed, count=bits)
    values = views | row | {"masks": masks, "record": np.array(index, np.int32)}
    if cfg.slot_side:
      draw = self._slots and self._slots.of(epoch, index)
      options = {"most": cfg.slots, "draw": draw, "read": cfg.slot_tokens > 0}
      values |= fill.slots(masks, row, cfg.slot_side, **options)
    if "source" in self._asked:
      values["source"] = np.array(self.dataset.entry_of(index), np.int32)
    return batch_table.complete(values, self._sizes, self._names)


def _record_number(record, index):
  """The record's place in its own file: `id` is `<split>/<number>` in PRIST."""
  tail = record.id.rpartition("/")[2]
  return int(tail) if tail.isdigit() else (record.id or index)
