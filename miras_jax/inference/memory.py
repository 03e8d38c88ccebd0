"""Earlier masks of a conversation, as a model with a state looks at them.

`stack` makes the arrays, `shown` says where in the conversation their tokens are.

Q side of a mask as SAM's decoder makes it, E slots, H W image rows and columns.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from input_pipeline import mask_canvas
from input_pipeline.slots import fill
from miras_jax.models.state.encode import Picture, Slots

NONE = -1  # no slot is picked


class Slot(NamedTuple):
  """cells_QQ: uint8, how much of each cell is inside, of 255. origin: MODEL or USER.
  before: number of the question that it came before, or with."""

  cells_QQ: np.ndarray
  origin: int = fill.MODEL
  before: int = 0


class Shown(NamedTuple):
  """Where the tokens of an earlier mask are: before which question. mark: a number that
  is another one for another mask. named: the user says that this one is meant."""

  before: int
  mark: int
  named: bool = False


def has_state(data) -> bool:
  """Whether the model of this DataConfig looks at earlier masks."""
  return data.slot_side > 0


def has_tokens(data) -> bool:
  """Whether the language model of this DataConfig reads earlier masks."""
  return data.slot_tokens > 0


def looks(data, earlier: bool) -> bool:
  """Whether anything is asked about earlier masks: where they are not to be seen, a
  language model that reads them is told that they are missing."""
  return has_state(data) and (earlier or has_tokens(data))


def of_logits(logits_QQ, before=0) -> Slot:
  """A mask that the model has made."""
  inside_QQ = 0.5 * (1 + np.tanh(0.5 * np.asarray(logits_QQ, np.float64)))
  return Slot(np.rint(fill.INSIDE * inside_QQ).astype(np.uint8), before=before)


def of_mask(mask_HW, data, origin=fill.USER, before=0) -> Slot:
  """A mask of the image's size."""
  mask_SS = mask_canvas.mask_to_canvas(np.asarray(mask_HW, np.uint8), data.sam_size)
  return Slot(fill.shrunk(mask_SS[None], data.slot_side)[0], origin, before)


def stack(rows: Sequence[Sequence[Slot]], data, picks=None) -> dict | None:
  """The earlier masks of a batch of conversations, the latest `data.slots` of each.

  picks: for each row the number of the one that is meant, NONE where nobody says; that
  one is among them however old it is. None where no row has any: then the program is
  that of a model without a state.
  """
  if not any(rows):
    return None
  B, E, Q = len(rows), data.slots, data.slot_side
  slots = {
    "masks": np.zeros((B, E, Q, Q), np.uint8),
    "valid": np.zeros((B, E), np.int32),
    "origin": np.zeros((B, E), np.int32),
    "pick": np.full(B, NONE, np.int32),
  }
  for b, earlier in enumerate(rows):
    pick = NONE if picks is None else picks[b]
    kept = _window(len(earlier), E, pick)
    for e, number in enumerate(kept):
      slots["masks"][b, e], slots["origin"][b, e], _ = earlier[number]
      slots["valid"][b, e] = 1
    if pick != NONE:
      slots["pick"][b] = kept.index(pick)
  return slots


def shown(earlier: Sequence[Slot], data, pick=NONE, *, blind=False) -> list[Shown]:
  """The masks that `stack` keeps of a conversation, in its order, for `prompt_of`; none
  for a model that does not read them. blind: they are missing."""
  if not has_tokens(data):
    return []
  kept = _window(len(earlier), data.slots, pick)
  return [_shown(earlier[number], number == pick, blind) for number in kept]


def blind(slots: dict | None) -> dict | None:
  """The same with all masks missing."""
  return slots and slots | {"valid": np.zeros_like(slots["valid"])}


def _shown(slot, named, blind):
  return Shown(slot.before, 0 if blind else _mark(slot), named)


def _mark(slot):
  return zlib.crc32(slot.cells_QQ.tobytes(), slot.origin + 1) >> 1


def _window(count, most, pick) -> list[int]:
  """Numbers of the latest masks; an older one that is picked is the first of them."""
  kept = list(range(max(0, count - most), count))
  if pick != NONE and pick not in kept:
    kept[0] = pick
  return kept


def seen(slots: dict, encoded: dict, masks: int) -> tuple[Slots, Picture]:
  """What `Miras.masks_after` is given of `stack`'s result: all new masks see all."""
  seen_BME = jnp.repeat(slots["valid"][:, None], masks, axis=1)
  masks_BEQQ = slots["masks"].astype(jnp.float32) / fill.INSIDE
  slots = Slots(masks_BEQQ, slots["origin"], seen_BME, slots["pick"])
  return slots, picture(encoded)


def picture(encoded: dict) -> Picture:
  """What earlier masks are looked up in, of `generate.encode_images`."""
  return Picture(encoded["image_tokens"], encoded["sam"], encoded["valid_hw"])
