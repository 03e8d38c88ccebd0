"""What became of each target: right, wrong extent, wrong object, missing, extra.

Read from lines of predictions.jsonl alone: no photograph, no mask is decoded.

right         IoU with the target of at least 0.5, or both empty
missing       a target, and an empty mask or no [SEG]
extra         a mask, and an empty target or no target at all (a [SEG] that was not due)
wrong object  the mask fits another annotated target of the image better than its own,
              and covers it or lies in it by half; or it covers none by half
wrong extent  it covers its own target, or lies in it, by half
"""

import collections
import dataclasses
import functools
from typing import NamedTuple

from input_pipeline import mask_ops

RIGHT, EXTENT, OBJECT = "right", "wrong extent", "wrong object"
MISSING, EXTRA = "missing", "extra"
KINDS = (RIGHT, EXTENT, OBJECT, MISSING, EXTRA)
RIGHT_IOU = 0.5
SAME_IOU = 0.9  # two annotations of one object
_HALF = 0.5
_MOST_OTHERS = 200  # annotated targets of an image that a mask is compared with


class Outcome(NamedTuple):
  """kind: of KINDS. target: its place in the line, None for a [SEG] that was not due.
  instead: the name of the object that was taken, if it is annotated."""

  kind: str
  target: int | None
  instead: str | None = None


@dataclasses.dataclass(frozen=True)
class Row:
  """One conversation. number: of its line, from 1. ious: of its targets that are not
  empty. outcomes: one a target, then one a [SEG] that was not due; None where the line
  has no target masks."""

  number: int
  id: str
  image: str
  names: tuple
  all_ious: tuple
  ious: tuple
  outcomes: tuple | None

  @property
  def score(self) -> float | None:
    """Mean IoU of the targets that are not empty."""
    return sum(self.ious) / len(self.ious) if self.ious else None


def survey(lines) -> list[Row]:
  """A Row for each line of predictions.jsonl. lines: dicts, walked through twice."""
  known = collections.defaultdict(dict)
  for line in lines:
    for target in line["targets"]:
      if target.get("true") and _area(target["true"]):
        known[line["image"]].setdefault(str(target["true"]["counts"]), target)
  return [
    _row(number, line, list(known[line["image"]].values())[:_MOST_OTHERS])
    for number, line in enumerate(lines, 1)
  ]


def _row(number, line, known):
  targets = line["targets"]
  outcomes = None
  if all(target.get("true") for target in targets):
    outcomes = [
      classify(target["mask"], target["true"], known)._replace(target=k)
      for k, target in enumerate(targets)
    ]
    outcomes = (*outcomes, *[Outcome(EXTRA, None)] * surplus(line))
  ious = tuple(target["iou"] for target in targets)
  filled = [_area(t["true"]) if t.get("true") else t["name"] for t in targets]
  return Row(
    number=number,
    id=str(line["id"]),
    image=str(line["image"]),
    names=tuple(target["name"] for target in targets),
    all_ious=ious,
    ious=tuple(iou for iou, full in zip(ious, filled, strict=True) if full),
    outcomes=outcomes,
  )


def surplus(line) -> int:
  """[SEG] beyond those due, over the turns of a line."""
  due = collections.Counter(target["turn"] for target in line["targets"])
  return sum(max(0, turn["num_seg"] - due[i]) for i, turn in enumerate(line["turns"]))


def classify(mask, true, known=()) -> Outcome:
  """The outcome of one target. mask, true: RLE. known: the annotated targets of the
  image, dicts with "name" and "true", the target itself may be among them."""
  if not _area(true):
    return Outcome(EXTRA if _area(mask) else RIGHT, None)
  if not _area(mask):
    return Outcome(MISSING, None)
  iou, contained = _overlap(mask, true)
  if iou >= RIGHT_IOU:
    return Outcome(RIGHT, None)
  better, instead = iou, None
  for other in known:
    if other["true"]["size"] == true["size"]:
      its_iou, covered = _overlap(mask, other["true"])
      same = its_iou > better and _overlap(true, other["true"])[0] >= SAME_IOU
      if its_iou > better and covered >= _HALF and not same:
        better, instead = its_iou, other["name"] or ""
  if instead is not None:
    return Outcome(OBJECT, None, instead)
  return Outcome(EXTENT if contained >= _HALF else OBJECT, None)


def _overlap(first, second):
  """(IoU, shared pixels over those of the smaller) of two RLE that are not empty."""
  shared, areas = mask_ops.rle_overlap(first, second), (_area(first), _area(second))
  return shared / (sum(areas) - shared), shared / min(areas)


def _area(rle):
  counts = rle["counts"]
  return _area_of(*rle["size"], counts if isinstance(counts, str) else tuple(counts))


@functools.lru_cache(maxsize=4096)
def _area_of(height, width, counts):
  return mask_ops.rle_area({"size": (height, width), "counts": counts})
