"""Jobs in which earlier masks are given: the gold ones, or another object's in place.

slot_swapped  a request that only repeats an earlier mask, with another object's mask
              in its slot, as if the user had given it: the answer should follow
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from input_pipeline import mask_ops
from input_pipeline.slots import fill, relations
from miras_jax.evaluation import altered, controls
from miras_jax.evaluation.history import history_of
from miras_jax.inference import memory
from miras_jax.inference.rollout import Job

SWAPPED = "slot_swapped"
STATES = ("own", "gold", "none")


class Swap(NamedTuple):
  """Target `place` of a record repeats target `earlier`, in whose slot is `mask`."""

  record: int
  place: int
  earlier: int
  mask: dict  # RLE


@dataclasses.dataclass(frozen=True)
class GoldSlots:
  """The slots of each turn of a record: its true masks so far. swap: Swap or None.

  Masks are decoded when a turn is taken: those of all records would take gigabytes.
  """

  record: Any
  data: Any
  swap: Swap | None = None

  def __call__(self, turn: int) -> list[memory.Slot]:
    places = controls.seg_slots(self.record)
    return [
      self._slot(k, rle, places[k][0] + 1)
      for k, (_, rle) in enumerate(self.record.targets)
      if places[k][0] < turn
    ]

  def _slot(self, k, rle, before):
    swap, origin = self.swap, fill.MODEL
    if swap and k == swap.earlier:
      rle, origin = swap.mask, fill.USER
    return memory.of_mask(mask_ops.decode_rle(rle), self.data, origin, before)


def with_gold_slots(plan, records, data):
  """The plan, each record's own job with the true masks as earlier ones."""
  jobs = list(plan.jobs)
  for i, record in enumerate(records):
    jobs[i] = dataclasses.replace(jobs[i], slots=GoldSlots(record, data))
  return dataclasses.replace(plan, jobs=jobs)


def with_swaps(plan, records, data, sample=altered.SAMPLE):
  """(the plan with jobs of SWAPPED, their Swaps in that order)."""
  every = list(filter(None, map(_swap_finder(records), range(len(records)))))
  swaps = altered.spread(every, sample) if sample else every
  jobs, uses = list(plan.jobs), list(plan.altered)
  for swap in swaps:
    record = records[swap.record]
    turn = controls.seg_slots(record)[swap.place][0]
    talk = altered.talk_of(record)
    slots = GoldSlots(record, data, swap)
    job = Job(swap.record, talk.questions[: turn + 1], talk.answers, talk.names, slots)
    uses.append((len(jobs), altered.Altered(SWAPPED, swap.record, job, (swap.place,))))
    jobs.append(job)
  counts = dict(plan.counts)
  asked = {SWAPPED: {"applies": len(every), "asked": len(swaps)}}
  counts["altered"] = counts.get("altered", {}) | asked
  plan = dataclasses.replace(plan, jobs=jobs, altered=tuple(uses), counts=counts)
  return plan, swaps


def _swap_finder(records: Sequence):
  """Function from a record's number to its Swap, None where there is none."""
  of_image = {}
  for i, record in enumerate(records):
    of_image.setdefault(controls.image_key(record), []).append(i)

  def find(i):
    record, mates = records[i], of_image[controls.image_key(records[i])]
    for k, (kind, earlier) in enumerate(history_of(record)):
      if kind == relations.SAME:
        rle = _other(records, mates, record.targets[earlier][1])
        if rle is not None:
          return Swap(i, k, earlier, rle)
    return None

  def find_sound(i):
    try:
      return find(i)
    except ValueError:  # a broken mask is named where it is scored
      return None

  return find_sound


def _other(records, mates, rle):
  """The mask of another object of the image, of those that conversations are about."""
  now_HW = mask_ops.decode_rle(rle) > 0
  for i in mates:
    for _, other in records[i].targets:
      other_HW = mask_ops.decode_rle(other) > 0
      if relations.relation(other_HW, now_HW) == relations.SIBLING:
        return other
  return None
