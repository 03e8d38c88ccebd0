"""Two annotations of the same pictures: what is of one thing in both, and what is not.

Masks belong together by picture and name, dialogues by picture: first those about the
same targets, then the others in the order in which they come.
"""

import collections
import dataclasses
import itertools
import sys
from typing import NamedTuple

from tqdm import tqdm

from input_pipeline import mask_ops
from input_pipeline.open_source import open_source
from input_pipeline.records import RecordError

MOST_TRIED = 400  # pairs of masks of one name and picture whose overlap is looked at


class Dialogue(NamedTuple):
  """A conversation as one annotator wrote it. where: `FILE:RECORD`."""

  where: str
  focus: tuple[str, ...]
  turns: tuple[tuple[str, str], ...]


@dataclasses.dataclass
class Picture:
  """What one annotator has of one picture: {name: [RLE, ...]} and dialogues."""

  masks: dict = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
  dialogues: list = dataclasses.field(default_factory=list)


class Annotations(NamedTuple):
  """pictures: {image id: Picture}. problems: lines, one a defective record."""

  pictures: dict[str, Picture]
  problems: list[str]


def read(place, splits, *, images_dir=None) -> Annotations:
  """All records of the splits of a data set; defective ones are problems.

  Raises UserError where a split cannot be read.
  """
  pictures, problems = collections.defaultdict(Picture), []
  for split in splits:
    source = open_source(place, split, images_dir=images_dir)
    for i in tqdm(
      range(len(source)),
      f"reading {source.file}",
      file=sys.stderr,
      leave=False,
      disable=None,
    ):
      record = source.load(i)
      if isinstance(record, RecordError):
        problems.append(str(record.problem))
      elif record.has_picture:
        where = f"{source.file_of(i)}:{i}"
        _add(pictures[record.image_id or where], record, where)
  return Annotations(dict(pictures), problems)


def _add(picture, record, where):
  """A mask that several conversations speak of is one mask; no target is none."""
  for name, rle in record.targets:
    name = plain(name)
    if name and rle not in picture.masks[name]:
      picture.masks[name].append(rle)
  focus = tuple(sorted(plain(name) for name, _ in record.targets))
  picture.dialogues.append(Dialogue(where, focus, record.turns))


def plain(name) -> str:
  """A name without what two people write differently: case and spaces."""
  return " ".join(name.casefold().split())


class Pairs(NamedTuple):
  """What is in both, and what in one alone.

  images: ids in both. masks: (image, name, RLE of A, RLE of B). dialogues: (image,
  Dialogue of A, of B). only: {("images" | "masks" | "dialogues", "A" | "B"): [(image,
  which of it)]}. sizes: (image, what) of masks that are not of one size.
  """

  images: list
  masks: list
  dialogues: list
  only: dict
  sizes: list


def match(a: Annotations, b: Annotations) -> Pairs:
  """Everything of A with its counterpart of B."""
  kinds = itertools.product(("images", "masks", "dialogues"), "AB")
  pairs = Pairs([], [], [], {kind: [] for kind in kinds}, [])
  for side, mine, other in (("A", a, b), ("B", b, a)):
    missing = sorted(mine.pictures.keys() - other.pictures.keys())
    pairs.only["images", side].extend((image, "") for image in missing)
  for image in sorted(a.pictures.keys() & b.pictures.keys()):
    pairs.images.append(image)
    first, second = a.pictures[image], b.pictures[image]
    for name in sorted(first.masks.keys() | second.masks.keys()):
      _match_masks(
        image, name, first.masks.get(name, []), second.masks.get(name, []), pairs
      )
    _match_dialogues(image, first.dialogues, second.dialogues, pairs)
  return pairs


def _match_masks(image, name, mine, theirs, pairs):
  """Several of one name: those that overlap most, each once."""
  order = _by_overlap(mine, theirs)
  free_a, free_b = set(range(len(mine))), set(range(len(theirs)))
  for i, j in order:
    if i in free_a and j in free_b:
      free_a.remove(i)
      free_b.remove(j)
      if list(mine[i]["size"]) == list(theirs[j]["size"]):
        pairs.masks.append((image, name, mine[i], theirs[j]))
      else:
        sizes = f"{mine[i]['size']} in A, {theirs[j]['size']} in B"
        pairs.sizes.append((image, f"{name}: {sizes}"))
  pairs.only["masks", "A"].extend([(image, name)] * len(free_a))
  pairs.only["masks", "B"].extend([(image, name)] * len(free_b))


def _by_overlap(mine, theirs):
  """All (i, j), the largest overlap first; in order of the data where they are many."""
  every = list(itertools.product(range(len(mine)), range(len(theirs))))
  if len(every) <= 1:
    return every
  if len(every) > MOST_TRIED:
    return list(zip(range(len(mine)), range(len(theirs)), strict=False))
  return sorted(every, key=lambda ij: -_overlap(mine[ij[0]], theirs[ij[1]]))


def _overlap(rle_a, rle_b):
  a, b = (mask_ops.decode_rle(rle).astype(bool) for rle in (rle_a, rle_b))
  if a.shape != b.shape:
    return -1.0
  union = (a | b).sum()
  return (a & b).sum() / union if union else 1.0


def _match_dialogues(image, mine, theirs, pairs):
  theirs, rest = list(theirs), []
  for said in mine:
    same = next((i for i, t in enumerate(theirs) if t.focus == said.focus), None)
    if same is None:
      rest.append(said)
    else:
      pairs.dialogues.append((image, said, theirs.pop(same)))
  count = min(len(rest), len(theirs))
  pairs.dialogues.extend((image, *both) for both in zip(rest, theirs, strict=False))
  pairs.only["dialogues", "A"].extend((image, d.where) for d in rest[count:])
  pairs.only["dialogues", "B"].extend((image, d.where) for d in theirs[count:])
