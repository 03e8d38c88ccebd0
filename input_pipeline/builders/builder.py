"""What every data set is to `miras data build`: a card, and records from files.

A builder does two things. `units` lists the work: one small JSON object for each
photograph, streamed, in one process. `records` does it: reads the photograph, draws the
masks, says what it cannot use; in any process, in any order.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import Problem, RecordError, SegConversation

Unit = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
  """What a data card says of a source.

  layout: the tree that is expected under --src, with remarks. published: counts that
  the authors state, {split: {"conversations" or "images" or ...: number}}; they are
  printed beside our own and never asserted.
  """

  name: str
  version: str
  title: str
  description: str
  homepage: str
  citation: str
  licence: str
  layout: str
  published: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)


class Builder(abc.ABC):
  """One source in its published form."""

  card: Card

  @abc.abstractmethod
  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    """The splits that lie in `src`, in the order in which they are built.

    Raises UserError (`missing`) where the layout is not that of the card.
    """

  @abc.abstractmethod
  def units(self, src: SourceFolder, split: str) -> Iterator[Unit | RecordError]:
    """The photographs of a split, one JSON-able object each: all that `records` needs.

    An entry that leads to no unit is a RecordError. Conversations about one photograph
    belong into one unit. What is read here is streamed: a list may be larger than the
    memory (`SourceFolder.items`, `grouping`).
    """

  @abc.abstractmethod
  def records(
    self, src: SourceFolder, unit: Unit
  ) -> Iterator[SegConversation | RecordError | Problem]:
    """The conversations of one unit, in order; a defective one is a RecordError, and
    what was odd and refuses nothing a Problem.

    `id` is unique in the split and says where the record comes from; `image_id` is
    the photograph's, namespaced (`coco/000000581857`): equal where the pictures are
    equal, in other sources too, so that leaks can be found.
    """

  def found(self, src: SourceFolder) -> str:
    """What `src` holds, where that was found by looking; "": as the card says."""
    del src
    return ""

  def files_digest(self, src: SourceFolder) -> str:
    """Differs when files of `src` were changed since; "": published files do not."""
    del src
    return ""

  def options(self) -> Mapping[str, Any]:
    """What changes the records beside the files: kept with them, compared at resume."""
    return {}
