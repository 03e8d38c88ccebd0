"""Conversations that live on the server: their image, turns and masks, as small as they
can be kept. What the device holds of them may be gone: it is read again then.
"""

import collections
import dataclasses
import math
import secrets
import threading
import time
import zlib

import numpy as np

from input_pipeline import examples, image_ops, mask_ops
from miras_jax.inference import memory
from miras_jax.inference.conversation import Reply
from miras_jax.inference.masks import Mask
from miras_jax.serving.refusals import Conflict, Unknown

SMALL_VIEWS = ("valid_hw", "original_hw")


def packed(slot: memory.Slot | None) -> bytes:
  """What later turns see of a mask; nothing of None."""
  return zlib.compress(slot.cells_QQ.tobytes(), 1) if slot else b""


def unpacked(seen: bytes, origin: int, before: int) -> memory.Slot:
  """The slot of a mask that came before question number `before`."""
  cells = np.frombuffer(zlib.decompress(seen), np.uint8)
  side = math.isqrt(len(cells))
  return memory.Slot(cells.reshape(side, side), origin, before)


@dataclasses.dataclass(frozen=True)
class KeptMask:
  """A mask of an answer as COCO RLE; `words` are its name in the text, maybe "".
  `seen`: packed, as later turns see it; of a model that looks at earlier masks."""

  rle: dict
  iou: float
  span: tuple[int, int]
  words: str
  seen: bytes = b""

  @classmethod
  def of(cls, mask: Mask, text: str, slot=None) -> "KeptMask":
    words = text[slice(*mask.span)].removesuffix("[SEG]").removeprefix("[OBJ]")
    return cls(mask.rle(), mask.iou, mask.span, words.strip(), packed(slot))

  def array(self) -> np.ndarray:
    """bool (H, W)."""
    return mask_ops.decode_rle(self.rle) != 0


@dataclasses.dataclass(frozen=True)
class Turn:
  """A question, as `asked` shows it, and its answer. given: the mask that came with the
  question, as `KeptMask.seen`."""

  asked: dict
  text: str
  masks: tuple[KeptMask, ...]
  num_seg: int
  dropped_rounds: int
  seconds: float
  given: bytes = b""

  @classmethod
  def of(cls, asked: dict, reply: Reply, seconds: float, given=None) -> "Turn":
    slots = reply.slots or [None] * len(reply.masks)
    both = zip(reply.masks, slots, strict=True)
    masks = tuple(KeptMask.of(mask, reply.text, slot) for mask, slot in both)
    said = reply.text, masks, reply.num_seg, reply.dropped_rounds
    return cls(asked, *said, seconds, packed(given))

  def weight(self) -> int:
    """About how many bytes it takes."""
    masks = sum(len(mask.rle["counts"]) + len(mask.seen) + 300 for mask in self.masks)
    return len(str(self.asked)) + len(self.text) + len(self.given) + masks


class Talk:
  """One conversation. `begin` and `end` enclose an answer: there is one at a time.
  weight: about how many bytes it takes."""

  def __init__(self, image: bytes, name: str, data, *, max_pixels):
    """Raises ImageError for bytes that are no usable image."""
    image_ops.image_size(image, max_pixels=max_pixels)
    self.id = secrets.token_urlsafe(16)
    self.image, self.name, self._data, self._views = image, name, data, None
    views = examples.make_views(image, data)
    self.sizes = {key: views[key] for key in SMALL_VIEWS}
    self.created = time.time()
    self._set([])
    self._lock, self._answering = threading.Lock(), False

  def _set(self, turns: list[Turn]):
    self.turns = turns
    self.weight = 2000 + len(self.image) + sum(turn.weight() for turn in turns)

  @property
  def size(self) -> tuple[int, int]:
    """(height, width) of the image."""
    return tuple(map(int, self.sizes["original_hw"]))

  @property
  def masks(self) -> list[KeptMask]:
    return [mask for turn in self.turns for mask in turn.masks]

  @property
  def said(self) -> list[tuple[str, str]]:
    """(role, text) pairs, as the model sees them."""
    texts = [(turn.asked["text"], turn.text) for turn in self.turns]
    return [
      pair for user, model in texts for pair in (("user", user), ("assistant", model))
    ]

  @property
  def answering(self) -> bool:
    return self._answering

  def begin(self):
    """Raises Conflict while an answer is under way."""
    with self._lock:
      if self._answering:
        raise Conflict("this conversation is answering; wait for its reply")
      self._answering = True

  def end(self):
    self._answering = False

  def views(self) -> dict:
    """What the encoders see, megabytes: kept until `drop_views`."""
    views = self._views
    if views is None:
      views = self._views = examples.make_views(self.image, self._data)
    return views

  def drop_views(self):
    self._views = None

  def add(self, turn: Turn):
    self._set([*self.turns, turn])

  def undo(self):
    """Forgets the last question and its answer. Raises Conflict where there is none."""
    if not self.turns:
      raise Conflict("nothing has been said yet")
    self._set(self.turns[:-1])

  def reset(self):
    """Forgets the turns, keeps the image."""
    self._set([])

  def fork(self) -> "Talk":
    """Another conversation that has said the same so far."""
    other = object.__new__(Talk)
    other.__dict__.update(self.__dict__)
    other.id, other.created = secrets.token_urlsafe(16), time.time()
    other._lock, other._answering, other._views = threading.Lock(), False, None
    return other


class Store:
  """Conversations by id; past `most` of them or `most_bytes` the one that was quiet for
  longest goes."""

  def __init__(self, most, most_bytes, gone=lambda talk: None):
    self._most, self._most_bytes, self._gone = most, most_bytes, gone
    self._talks, self._lock = collections.OrderedDict(), threading.Lock()

  def __len__(self):
    return len(self._talks)

  def add(self, talk: Talk):
    with self._lock:
      self._talks[talk.id] = talk
    self.shrink()

  def get(self, id: str) -> Talk:
    """Raises Unknown."""
    with self._lock:
      if id not in self._talks:
        raise Unknown("no such conversation; it may have been quiet for too long")
      self._talks.move_to_end(id)
      return self._talks[id]

  def remove(self, id: str):
    """Raises Unknown, and Conflict while it answers."""
    talk = self.get(id)
    talk.begin()
    with self._lock:
      self._talks.pop(id, None)
    self._gone(talk)

  def shrink(self):
    """Drops the quietest ones until the rest is within the limits."""
    with self._lock:
      total = sum(talk.weight for talk in self._talks.values())
      for id, talk in list(self._talks.items())[:-1]:
        if len(self._talks) <= self._most and total <= self._most_bytes:
          break
        if not talk.answering:
          total -= talk.weight
          del self._talks[id]
          self._gone(talk)
