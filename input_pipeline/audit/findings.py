"""What an audit finds: every finding in a file, the worst of each kind at hand."""

import contextlib
import dataclasses
import heapq
import json
import os
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from input_pipeline.records import one_line

WORST = 12  # of each kind, for the page
_MAX_REASON = 600  # characters


class Kind(NamedTuple):
  """text: what it is; fails: whether one of it makes the audit fail."""

  text: str
  fails: bool


# fmt: off
KINDS = {
  "defective": Kind("records that cannot be used", True),
  "equal_picture": Kind("pictures that another split or data set has, too", True),
  "near_picture": Kind("pictures that look like one of another split or set", True),
  "equal_id": Kind("pictures whose id another split has for another picture", True),
  "wrong_side": Kind("texts that name a side where the mask is not", True),
  "wrong_colour": Kind("texts that name a colour that the mask has not", True),
  "unit_coordinates": Kind(
    "masks of a few pixels in the top left corner: coordinates from 0 to 1?", True),
  "ambiguous_name": Kind("one name for different masks of a picture", False),
  "contained_name": Kind("names that contain the name of another mask", False),
  "duplicate_picture": Kind("pictures that their split has under another id", False),
  "small_target": Kind("targets of few pixels", False),
  "control_token": Kind("texts that spell a control token", False),
}
# fmt: on


class Place(NamedTuple):
  """A record: number of its source in the audit, and number in the source."""

  source: int
  record: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
  """One fault of one record.

  kind: of KINDS. at: the record; file: what messages call its file. weight: the larger,
  the worse among those of its kind. target: number of the mask, -1 for none. other: the
  record it clashes with.
  """

  kind: str
  at: Place
  file: str
  reason: str
  weight: float = 0.0
  target: int = -1
  other: Place | None = None

  def __str__(self):
    return one_line(f"{self.file}:{self.at.record}: {self.reason}")


class Findings:
  """Collects findings: counts and the worst in memory, all of them in a file.

  counts: how many of each kind. worst: up to WORST of each kind, the worst first.
  """

  def __init__(self, path):
    self.counts = dict.fromkeys(KINDS, 0)
    self._path = path
    self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115
    self._heaps = {kind: [] for kind in KINDS}

  def add(self, finding: Finding) -> None:
    reason = one_line(finding.reason)
    if len(reason) > _MAX_REASON:
      reason = reason[:_MAX_REASON] + "..."
    finding = dataclasses.replace(finding, reason=reason)
    self.counts[finding.kind] += 1
    row = {
      "kind": finding.kind,
      "file": finding.file,
      "record": finding.at.record,
      "reason": finding.reason,
    }
    self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
    heap = self._heaps[finding.kind]
    entry = (finding.weight, -sum(self.counts.values()), finding)
    heapq.heappushpop(heap, entry) if len(heap) == WORST else heapq.heappush(
      heap, entry
    )

  @property
  def worst(self) -> dict[str, list[Finding]]:
    return {
      kind: [finding for *_, finding in sorted(heap, key=lambda e: e[:2], reverse=True)]
      for kind, heap in self._heaps.items()
    }

  @property
  def fails(self) -> bool:
    """Whether there is one of a kind that fails an audit."""
    return any(count and KINDS[kind].fails for kind, count in self.counts.items())

  def rows(self) -> Iterator[dict]:
    """All findings in the order of their discovery, as plain objects."""
    self._file.flush()
    with open(self._path, encoding="utf-8") as lines:
      yield from map(json.loads, lines)

  def close(self):
    self._file.close()


@contextlib.contextmanager
def collected() -> Iterator[Findings]:
  """Findings whose file is temporary."""
  with tempfile.TemporaryDirectory() as folder:
    findings = Findings(os.path.join(folder, "findings.jsonl"))
    try:
      yield findings
    finally:
      findings.close()
