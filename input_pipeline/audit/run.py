"""The audit: one pass over the records, then what only all of them together tell.

Memory is bounded: records stream, the names of masks go through a temporary database,
and a picture leaves a row of numbers.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from input_pipeline import image_ops, mask_ops
from input_pipeline.audit import names as names_lib
from input_pipeline.audit import targets, texts
from input_pipeline.audit.findings import Finding, Findings, Place
from input_pipeline.audit.leaks import Leaks
from input_pipeline.audit.pictures import Pictures, Row, describe, id_digest
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
  threads: int = 2,
  progress: Progress = lambda numbers, text: numbers,
) -> None:
  """Adds what is wrong with the audited parts to `findings`.

  parts: those that others are compared with first. least_pixels: of a target that is
  not small. threads: how many read records. progress: wraps the numbers of the records
  of a part, whose name is its second argument.
  """
  walk = _Walk(parts, findings, words, least_pixels)
  with grouped(walk.masks(progress, threads)) as pictures:
    for _, rows in pictures:
      for fault in names_lib.faults([names_lib.Named(*row) for row in rows]):
        at, more = fault.mask, {"weight": fault.weight, "target": fault.mask.target}
        findings.add(
          walk.finding(fault.kind, at.source, at.record, fault.reason, **more)
        )
  leaks = Leaks(
    walk.pictures,
    [part.name for part in parts],
    [0 if part.audited else 1 for part in parts],
    lambda place: parts[place.source].source.image_ids[place.record] or "without id",
  )
  for finding in leaks.find():
    findings.add(finding)


class _Seen(NamedTuple):
  """What one record leaves: row of its picture if it is new, findings, named masks."""

  row: Row | None
  findings: list[Finding]
  masks: list[names_lib.Named]


class _Walk:
  """One pass over all parts."""

  def __init__(self, parts, findings, words, least_pixels):
    self.pictures = Pictures()
    self._parts, self._findings = parts, findings
    self._words, self._least_pixels = words, least_pixels
    self._known = set()  # (part, id of a picture) of the rows in the table
    self._decoded = None, None  # (digest of the file, its picture): neighbours share it

  def masks(self, progress, threads) -> Iterator[tuple[str, list]]:
    """(picture, Named) of every mask that has a name; the rest of the pass besides.

    Threads work ahead, what they find is taken in the order of the records.
    """
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
      for number, part in enumerate(self._parts):
        look = functools.partial(self._look, number)
        numbers = progress(range(len(part.source)), part.name)
        for i, seen in _ahead(pool, look, numbers, 4 * threads):
          key = number, self._key(number, i)
          if seen.row and key not in self._known:
            self._known.add(key)
            self.pictures.add(number, i, seen.row)
          for finding in seen.findings:
            self._findings.add(finding)
          for mask in seen.masks:
            yield f"{number}\0{key[1]}", mask

  def finding(self, kind, source, record, reason, **more) -> Finding:
    file = self._parts[source].name
    return Finding(
      kind=kind, at=Place(source, record), file=file, reason=reason, **more
    )

  def _key(self, number, i):
    """Of the picture of a record; without an id each record has its own."""
    return id_digest(self._parts[number].source.image_ids[i] or f"\0{i}")

  def _look(self, number, i) -> _Seen:
    """Looks at one record; in a thread."""
    part, seen = self._parts[number], _Seen(None, [], [])
    is_new = (number, self._key(number, i)) not in self._known
    if not part.audited and not is_new:
      return seen
    record = part.source.load(i)
    reason = getattr(record, "reason", "")
    try:
      if not reason and record.image and is_new:
        row = describe(record.image_id, self._picture(record.image))
        seen = seen._replace(row=row)
      if part.audited and not reason:
        self._targets(number, i, record, seen)
    except (image_ops.ImageError, ValueError) as error:
      reason = str(error)
    if reason and part.audited:
      return _Seen(seen.row, [self.finding("defective", number, i, reason)], [])
    return seen

  def _targets(self, number, i, record, seen):
    for reason in texts.control_tokens(record.turns, [n for n, _ in record.targets]):
      seen.findings.append(self.finding("control_token", number, i, reason))
    said = texts.said_of_targets(record.turns, len(record.targets))
    for k, (name, rle) in enumerate(record.targets):
      mask_HW = mask_ops.decode_rle(rle)
      if mask_HW.shape != image_ops.image_size(record.image):
        raise ValueError(f"the mask of {name!r} has another size than the image")
      where = targets.extent(mask_HW)
      if where:
        found = [
          self._size(number, i, k, name, mask_HW),
          self._colour(number, i, k, (name, said[k].sentence), record.image, mask_HW),
        ]
        seen.findings.extend(filter(None, found))
      if name:
        side, base = self._side(name, said[k]), texts.without_side(name, self._words)
        row = (number, i, k, name, _digest(mask_HW), side, base, where)
        seen.masks.append(names_lib.Named(*row))

  def _side(self, name, said):
    """The first side that a text about the mask states, the name before the others."""
    sides = [texts.side_of(name, self._words)]
    sides += [texts.stated_side(text, self._words) for text in said]
    return next(filter(None, sides), "")

  def _size(self, number, i, k, name, mask_HW):
    area = int(mask_HW.sum())
    if targets.is_unit_coordinates(mask_HW):
      text = f"the mask of {name!r} is {area} pixels at the top left corner"
      return self.finding("unit_coordinates", number, i, text, target=k)
    if area >= self._least_pixels:
      return None
    text = f"the mask of {name!r} has {area} pixels of {mask_HW.size:,}"
    return self.finding("small_target", number, i, text, weight=-area, target=k)

  def _colour(self, number, i, k, said, image, mask_HW):
    """The first text that names a colour is judged: the name, then the sentence."""
    for text in said:
      if not (colour := texts.colour_of(text, self._words)):
        continue
      judged = targets.judge_colour(colour, self._picture(image), mask_HW)
      if not targets.contradicts(judged):
        return None
      reason = (
        f"{text!r} names {colour}: {judged.agree:.0%} of the pixels of mask {k}"
        f" agree, {judged.refute:.0%} refute it, most are {judged.seen}"
      )
      weight = judged.refute
      return self.finding("wrong_colour", number, i, reason, weight=weight, target=k)
    return None

  def _picture(self, data):
    key = hashlib.blake2b(data).digest()
    kept = self._decoded  # taken once: another thread may replace it
    if kept[0] != key:
      self._decoded = kept = key, image_ops.decode_image(data)
    return kept[1]


def _ahead(pool, look, numbers, most):
  """(number, look(number)) in order, at most `most` of them looked at ahead."""
  waiting = collections.deque()
  for number in numbers:
    waiting.append((number, pool.submit(look, number)))
    if len(waiting) > most:
      first, future = waiting.popleft()
      yield first, future.result()
  for first, future in waiting:
    yield first, future.result()


def _digest(mask_HW):
  digest = hashlib.blake2b(json.dumps(mask_HW.shape).encode(), digest_size=16)
  digest.update(mask_HW)
  return digest.hexdigest()
