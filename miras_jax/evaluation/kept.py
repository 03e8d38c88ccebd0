"""Masks of answers at their image's size, and which of them each pass is scored on."""

import collections
from typing import NamedTuple

import numpy as np

from input_pipeline import mask_ops
from miras_jax.evaluation import controls

FREE = "free_running"


class Use(NamedTuple):
  """The pass `name` scores a job for `record`. image: the record whose image it was
  about; turn: the one that was asked alone; chosen: the targets, where not all."""

  name: str
  record: int
  image: int
  turn: int = 0
  chosen: tuple | None = None


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
  for job, use in plan.altered:
    found[job].append(Use(use.name, use.record, use.record, chosen=use.places))
  return dict(found)


def places(use, slots) -> list[int]:
  """Which targets of its record a use is scored on; slots: `controls.seg_slots`."""
  if use.name == "last_turn_only":
    return [k for k, (turn, _) in enumerate(slots) if turn == use.turn]
  return list(range(len(slots)) if use.chosen is None else use.chosen)


def logits_of(use, slots, answers) -> list:
  """The logits (h, w) that a use has for each of its `places`, None where none."""
  if use.name == "last_turn_only":
    return controls.pick(answers, [(0, slots[k][1]) for k in places(use, slots)])
  if use.name == "swapped_conversation":
    return controls.pick_last(answers, len(slots))
  return controls.pick(answers, [slots[k] for k in places(use, slots)])


def pair(rle, true_rle):
  """(prediction bool, target uint8) of a kept mask and a target's RLE."""
  true_HW = mask_ops.decode_rle(true_rle)
  if rle is None:
    return np.zeros_like(true_HW), true_HW
  return mask_ops.decode_rle(rle).astype(bool), true_HW
