"""A photograph and what is labelled in it, whatever tool its labels come from."""

import abc
import dataclasses
from collections.abc import Iterator

from input_pipeline.builders.builder import Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import RecordError


@dataclasses.dataclass(frozen=True)
class Region:
  """One labelled thing: `rle` is a COCO RLE of the size of the decoded photograph.

  part_of: index of the region that this one is a part of; None: not known. crowd: the
  mask covers several things of that name that are not told apart.
  """

  name: str
  rle: dict
  part_of: int | None = None
  crowd: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledPhoto:
  """`image` is the encoded file as `image_ops.decode_image` shows it to everybody.

  instances: each region is one thing; False: a region is all there is of its class (a
  class map). complete: the names of which everything is labelled, so that a photograph
  without such a region shows none. dialogues: conversations that came with the labels,
  (turns, names of the targets in order); written from the labels where there are none.
  notes: what was odd and is no reason to refuse the photograph. defects: dialogues that
  came with it and cannot be used, while others can.
  """

  image: bytes
  image_id: str
  height: int
  width: int
  regions: tuple[Region, ...]
  instances: bool = True
  complete: frozenset[str] = frozenset()
  dialogues: tuple[tuple[tuple[tuple[str, str], ...], tuple[str, ...]], ...] = ()
  notes: tuple[str, ...] = ()
  defects: tuple[RecordError, ...] = ()


class Form(abc.ABC):
  """One way in which annotation tools lay out their files."""

  name: str  # "labelme", "coco", ...

  @abc.abstractmethod
  def found(self, src: SourceFolder) -> str | None:
    """What in `src` is of this form ("labels/: 120 YOLO files"), None: nothing."""

  @abc.abstractmethod
  def units(self, src: SourceFolder) -> Iterator[Unit | RecordError]:
    """One JSON-able object for each photograph; has "image", its name below the root,
    and "split" where the files state one."""

  @abc.abstractmethod
  def read(self, src: SourceFolder, unit: Unit) -> LabelledPhoto:
    """The photograph of a unit. Raises RecordError for one that cannot be used."""
