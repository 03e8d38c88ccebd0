"""Masks as they are made: each at its image's size, kept as RLE, the logits let go.

So a pass over a whole data set holds some kilobytes a mask, whatever the size of the
photographs.
"""

import collections
from typing import NamedTuple

import numpy as np

from input_pipeline import mask_ops
from miras_jax.evaluation import controls

FREE = "free_running"


class Masks:
  """`of[name][i]`: for each target of record i its RLE, or None where there was none.

  The names are those of the passes of a `controls.Plan`. geometry(i): {"valid_hw",
  "original_hw"} of record i's image.
  """

  def __init__(self, plan, records, geometry, image_size):
    self._slots = [controls.seg_slots(record) for record in records]
    self._geometry, self._image_size = geometry, image_size
    self._uses = uses(plan, len(records))
    names = dict.fromkeys(use.name for found in self._uses.values() for use in found)
    self.of = {name: [[None] * len(slots) for slots in self._slots] for name in names}

  def uses(self, job):
    """What a job's answers are scored for: a list of Use."""
    return self._uses.get(job, [])

  def take(self, use, answers):
    """Keeps the masks of a job's answers for one of its uses."""
    slots, own = self._slots[use.record], self._geometry(use.record)
    places, views, original_hw = range(len(slots)), own, None
    if use.name == "last_turn_only":
      places = [k for k, (turn, _) in enumerate(slots) if turn == use.turn]
      logits = controls.pick(answers, [(0, slots[k][1]) for k in places])
    elif use.name == "swapped_conversation":
      logits = controls.pick_last(answers, len(slots))
    else:
      logits = controls.pick(answers, slots)
    if use.name == "swapped_image":
      views, original_hw = self._geometry(use.image), tuple(own["original_hw"])
    found = self._encode(logits, views, original_hw)
    for k, rle in zip(places, found, strict=True):
      self.of[use.name][use.record][k] = rle

  def take_forced(self, i, logits):
    """RLEs of teacher-forced logits, one (h, w) or None for each target of record i."""
    return self._encode(logits, self._geometry(i))

  def _encode(self, logits, views, original_hw=None):
    masks = (
      controls.at_original_size([low], views, self._image_size, original_hw)[0]
      for low in logits
    )
    return [None if mask is None else mask_ops.encode_rle(mask) for mask in masks]


class Use(NamedTuple):
  """The pass `name` scores a job for `record`. image: the record whose image it was
  about; turn: the one that was asked alone."""

  name: str
  record: int
  image: int
  turn: int = 0


def uses(plan, count) -> dict[int, list[Use]]:
  """The uses of each job of a plan for `count` records."""
  found = collections.defaultdict(list)
  for i in range(count):
    found[i].append(Use(FREE, i, i))
  for i, job in enumerate(plan.swapped_conversation or ()):
    found[job].append(Use("swapped_conversation", i, i))
  for (i, turn), job in (plan.last_turn or {}).items():
    found[job].append(Use("last_turn_only", i, i, turn))
  for i, (job, other) in enumerate(plan.swapped_image or ()):
    found[job].append(Use("swapped_image", i, other))
  return dict(found)


def pair(rle, true_rle):
  """(prediction bool, target uint8) of a kept mask and a target's RLE."""
  true_HW = mask_ops.decode_rle(true_rle)
  if rle is None:
    return np.zeros_like(true_HW), true_HW
  return mask_ops.decode_rle(rle).astype(bool), true_HW
