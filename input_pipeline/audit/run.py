"""The audit: one pass over the records, then what only all of them together tell.

Memory is bounded: records stream, the names of masks go through a temporary database,
and a picture leaves a row of numbers.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence

from input_pipeline import image_ops, mask_ops
from input_pipeline.audit import names as names_lib
from input_pipeline.audit import targets, texts
from input_pipeline.audit.findings import Finding, Findings, Place
from input_pipeline.audit.leaks import Leaks
from input_pipeline.audit.pictures import Pictures, id_digest
from input_pipeline.builders.grouping import grouped
from input_pipeline.source import Source
from input_pipeline.words import Words


@dataclasses.dataclass(frozen=True)
class Part:
  """One split in an audit. name: what messages call it. audited: False for one that the
  others are only compared with."""

  name: str
  source: Source
  audited: bool = True


Progress = Callable[[Iterable, str], Iterable]


def audit(
  parts: Sequence[Part],
  findings: Findings,
  words: Words,
  *,
  least_pixels: int,
  progress: Progress = lambda numbers, text: numbers,
) -> None:
  """Adds what is wrong with the audited parts to `findings`.

  parts: those that others are compared with first. least_pixels: of a target that is
  not small. progress: wraps the numbers of the records of a part.
  """
  walk = _Walk(parts, findings, words, least_pixels)
  with grouped(walk.masks(progress)) as pictures:
    for _, rows in pictures:
      for fault in names_lib.faults([names_lib.Named(*row) for row in rows]):
        mask = fault.mask
        walk.add(fault.kind, mask.source, mask.record, fault.reason,
                 weight=fault.weight, target=mask.target)  # fmt: skip
  leaks = Leaks(
    walk.pictures,
    [part.name for part in parts],
    [0 if part.audited else 1 for part in parts],
    lambda place: parts[place.source].source.image_ids[place.record] or "without id",
  )
  for finding in leaks.find():
    findings.add(finding)


class _Walk:
  """One pass over all parts."""

  def __init__(self, parts, findings, words, least_pixels):
    self.pictures = Pictures()
    self._parts, self._findings = parts, findings
    self._words, self._least_pixels = words, least_pixels
    self._decoded = None, None  # (digest of the file, its picture): neighbours share it

  def add(self, kind, source, record, reason, **more):
    file = self._parts[source].name
    self._findings.add(
      Finding(kind=kind, at=Place(source, record), file=file, reason=reason, **more)
    )

  def masks(self, progress) -> Iterator[tuple[str, list]]:
    """(picture, Named) of every mask that has a name; the rest of the pass besides."""
    for number, part in enumerate(self._parts):
      seen = set()
      for i in progress(range(len(part.source)), part.name):
        yield from self._record(number, i, seen)

  def _record(self, number, i, seen):
    part = self._parts[number]
    key = id_digest(part.source.image_ids[i] or f"\0{i}")
    if not part.audited and key in seen:
      return
    record = part.source.load(i)
    reason = getattr(record, "reason", "")
    try:
      if not reason and record.image and key not in seen:
        self.pictures.add(number, i, record.image_id, self._picture(record.image))
      seen.add(key)
      if part.audited and not reason:
        yield from self._targets(number, i, record)
    except (image_ops.ImageError, ValueError) as error:
      reason = str(error)
    if reason and part.audited:
      self.add("defective", number, i, reason)

  def _targets(self, number, i, record):
    for reason in texts.control_tokens(record.turns, [n for n, _ in record.targets]):
      self.add("control_token", number, i, reason)
    said = texts.said_of_targets(record.turns, len(record.targets))
    picture = f"{number}\0{record.image_id}" if record.image_id else f"{number}\0\0{i}"
    for k, (name, rle) in enumerate(record.targets):
      mask_HW = mask_ops.decode_rle(rle)
      if mask_HW.shape != image_ops.image_size(record.image):
        raise ValueError(f"the mask of {name!r} has another size than the image")
      where = targets.extent(mask_HW)
      if where:
        self._size(number, i, k, name, mask_HW)
        self._colour(number, i, k, (name, said[k].sentence), record.image, mask_HW)
      side = self._side(name, said[k])
      base = texts.without_side(name, self._words)
      if name:
        row = (number, i, k, name, _digest(mask_HW), side, base, where)
        yield picture, names_lib.Named(*row)

  def _side(self, name, said):
    """The first side that a text about the mask states, the name before the others."""
    sides = [texts.side_of(name, self._words)]
    sides += [texts.stated_side(text, self._words) for text in said]
    return next(filter(None, sides), "")

  def _size(self, number, i, k, name, mask_HW):
    area = int(mask_HW.sum())
    if targets.is_unit_coordinates(mask_HW):
      text = f"the mask of {name!r} is {area} pixels at the top left corner"
      self.add("unit_coordinates", number, i, text, target=k)
    elif area < self._least_pixels:
      height, width = mask_HW.shape
      text = f"the mask of {name!r} has {area} pixels of {height * width:,}"
      self.add("small_target", number, i, text, weight=-area, target=k)

  def _colour(self, number, i, k, said, image, mask_HW):
    """The first text that names a colour is judged: the name, then the sentence."""
    for text in said:
      if colour := texts.colour_of(text, self._words):
        judged = targets.judge_colour(colour, self._picture(image), mask_HW)
        if targets.contradicts(judged):
          reason = (
            f"{text!r} names {colour}: {judged.agree:.0%} of the pixels of mask {k}"
            f" agree, {judged.refute:.0%} refute it, most are {judged.seen}"
          )
          self.add("wrong_colour", number, i, reason, weight=judged.refute, target=k)
        return

  def _picture(self, data):
    key = hashlib.blake2b(data).digest()
    if self._decoded[0] != key:
      self._decoded = key, image_ops.decode_image(data)
    return self._decoded[1]


def _digest(mask_HW):
  digest = hashlib.blake2b(json.dumps(mask_HW.shape).encode(), digest_size=16)
  digest.update(mask_HW)
  return digest.hexdigest()
