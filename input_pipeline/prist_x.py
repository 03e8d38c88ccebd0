"""PRIST-X: conversations with the tree that they come from, a photograph a line.

    ROOT/trees/<split>.jsonl    one JSON object a line, see `line`
    ROOT/images/                the photographs

A conversation may ask for any number of masks; each is the union of things, of parts of
things, or of none (an empty mask), and says which edit of an earlier mask it is, so
that a model that carries masks from turn to turn can learn from it. Built, a
conversation says in its id what each of its masks is, so that they are scored by it.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from input_pipeline import mask_ops, prist_dialogue
from input_pipeline.records import SEG_TOKEN

VERSION = 1
FOLDER = "trees"
MAX_LINE = 64 << 20  # bytes
MAX_SIDE = 65_535
MAX_THINGS, MAX_TALKS = 5_000, 5_000
# How a mask is made of the earlier one that `of` names.
NEW = "new"  # of none
EDITS = {
  "add": "all of it, and more",
  "remove": "a piece of it, without others",
  "part": "labelled parts of it",
  "same": "the same once more",
  "other": "something that it does not cover",
}
# What a mask is of.
ONE, SEVERAL, PART, NONE = "one", "several", "part", "none"
OF = {ONE: "one thing", SEVERAL: "several", PART: "a part", NONE: "what is not there"}
_KINDS = re.compile(r" \(([a-z, ]+)\)$")


@dataclasses.dataclass(frozen=True)
class Thing:
  """part_of: id of the thing that it is a part of, "" for none."""

  name: str
  part_of: str
  rle: dict


class Mask(NamedTuple):
  """What one [SEG] is of. things: ids. of: index of the earlier mask, -1 for none.
  name: as the conversation puts it, "" for the names of the things."""

  things: tuple[str, ...]
  edit: str
  of: int
  name: str = ""


@dataclasses.dataclass(frozen=True)
class Talk:
  """A conversation. masks: one for each [SEG]; None: nobody has drawn it yet. path: of
  the tree, None for none."""

  turns: tuple[tuple[str, str], ...]
  masks: tuple[Mask | None, ...]
  path: int | None


@dataclasses.dataclass(frozen=True)
class Photograph:
  """A line. tree: as `miras data construct` writes it. defects: (index, reason) of the
  conversations that cannot be used."""

  img_id: str
  height: int
  width: int
  things: Mapping[str, Thing]
  tree: Mapping[str, Any]
  talks: Mapping[int, Talk]
  defects: tuple[tuple[int, str], ...]

  def target(self, mask: Mask) -> tuple[str, dict]:
    """(name, RLE) of the union of a mask's things; ("", empty) of none."""
    things = mask.things
    if not things:
      return "", mask_ops.empty_rle(self.height, self.width)
    names = dict.fromkeys(self.things[i].name for i in things)
    name = mask.name or ", ".join(names)
    if len(things) == 1:
      return name, self.things[things[0]].rle
    masks = [mask_ops.decode_rle(self.things[i].rle) for i in things]
    return name, mask_ops.encode_rle(np.bitwise_or.reduce(masks))

  def asks_for(self, things: Sequence[str]) -> str:
    """Which of `OF` a mask of these things is."""
    if len(things) != 1:
      return SEVERAL if things else NONE
    return PART if self.things[things[0]].part_of else ONE

  def record_id(self, place: str, talk: "Talk") -> str:
    """A record's id: its place in the file and what each mask is, "0/2 (new several,
    remove one)"; see `kinds_of`."""
    kinds = (f"{mask.edit} {self.asks_for(mask.things)}" for mask in talk.masks)
    return f"{place} ({', '.join(kinds)})" if talk.masks else place


def kinds_of(record_id: str) -> list[tuple[str, str]]:
  """(edit, which of `OF`) of each mask of a record by its id; [] of any other id."""
  match = _KINDS.search(record_id)
  pairs = [tuple(kind.split(" ")) for kind in match[1].split(", ")] if match else []
  known = all(
    len(p) == 2 and (p[0] == NEW or p[0] in EDITS) and p[1] in OF for p in pairs
  )
  return pairs if known else []


def mask(
  things: Sequence[str] | None, edit: str = NEW, of: int = -1, name: str = ""
) -> dict:
  """JSON of one `Mask`; things None: it is still to be drawn."""
  listed = None if things is None else list(things)
  return {"things": listed, "edit": edit, "of": of} | ({"name": name} if name else {})


def line(img_id, height, width, things, tree, conversations) -> dict:
  """JSON of one photograph.

  things: {id, name, part_of, mask: COCO RLE}; conversations: {turns: [{from, value}],
  path: index in the tree's paths or None, masks: see `mask`}.
  """
  return {
    "version": VERSION,
    "img_id": img_id,
    "height": height,
    "width": width,
    "things": things,
    "tree": tree,
    "conversations": conversations,
  }


def lines(file) -> Iterator[bytes]:
  """Lines of a file that is open for bytes. Raises ValueError for one past MAX_LINE."""
  while data := file.readline(MAX_LINE + 1):
    if len(data) > MAX_LINE:
      raise ValueError(f"holds a line of more than {MAX_LINE:,} bytes")
    if data.strip():
      yield data


def parse(data: bytes) -> Photograph:
  """A line -> Photograph. Raises ValueError with a reason."""
  try:
    found = json.loads(data)
    version, things = found["version"], found["things"]
    img_id, tree, talks = found["img_id"], found["tree"], found["conversations"]
    size = found["height"], found["width"]
    if version != VERSION:
      raise ValueError(f"version {str(version)[:20]}, want {VERSION}")
    if not isinstance(img_id, str) or not isinstance(tree, dict):
      raise ValueError("img_id is no text or tree no object")
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in size):
      raise ValueError(f"height and width are no sides of a picture: {size}"[:120])
    if len(things) > MAX_THINGS or len(talks) > MAX_TALKS:
      raise ValueError(f"more than {MAX_THINGS:,} things or conversations")
    known = dict(_thing(raw, size) for raw in things)
    if len(known) < len(things):
      raise ValueError("two things have one id")
    _check_parts(known)
  except (KeyError, TypeError, AttributeError, RecursionError) as error:
    said = f"lacks {error}" if isinstance(error, KeyError) else str(error)[:120]
    raise ValueError(f"is no photograph of PRIST-X: {said}") from None
  good, defects = {}, []
  for index, raw in enumerate(talks):
    try:
      good[index] = _talk(raw, known)
    except (KeyError, TypeError, AttributeError) as error:
      defects.append((index, f"is no conversation: {str(error)[:120]}"))
    except ValueError as error:
      defects.append((index, str(error)))
  return Photograph(img_id, *size, known, tree, good, tuple(defects))


def _thing(raw, size):
  name, part_of, rle = raw["name"], raw["part_of"], raw["mask"]
  if not all(isinstance(text, str) for text in (raw["id"], name, part_of)):
    raise ValueError("a thing's id, name or part_of is no text")
  if not name.strip() or SEG_TOKEN in name:
    raise ValueError(f"thing {raw['id'][:40]!r} has no usable name")
  if rle["size"] != list(size):
    raise ValueError(f"thing {raw['id'][:40]!r} has a mask of another size")
  mask_ops.rle_area(rle)
  return raw["id"], Thing(name, part_of, rle)


def _check_parts(things):
  for i, thing in things.items():
    seen, above = {i}, thing.part_of
    while above:
      if above not in things or above in seen:
        raise ValueError(f"thing {i[:40]!r} is a part of nothing, or of itself")
      seen.add(above)
      above = things[above].part_of


def _talk(raw, things):
  turns = prist_dialogue.parse_dialogue({"dialogue": raw["turns"]})
  masks = tuple(_mask(m, things) for m in raw["masks"])
  count = sum(text.count(SEG_TOKEN) for role, text in turns if role == "assistant")
  if count != len(masks):
    raise ValueError(f"{count} {SEG_TOKEN} in the answers but {len(masks)} masks")
  for place, made in enumerate(masks):
    if made is not None:
      _check_edit(place, masks, things)
  path = raw.get("path")
  return Talk(turns, masks, path if isinstance(path, int) else None)


def _mask(raw, things):
  ids, edit, of = raw["things"], raw["edit"], raw["of"]
  if ids is None:
    return None
  if missing := [i for i in ids if i not in things]:
    raise ValueError(f"mask of {str(missing[0])[:40]!r}, which is no thing")
  if edit != NEW and edit not in EDITS:
    raise ValueError(f"edit {str(edit)[:20]!r} is none of {NEW}, {', '.join(EDITS)}")
  if not isinstance(of, int) or (edit == NEW) != (of == -1):
    raise ValueError(f"edit {edit!r} of mask {str(of)[:20]}")
  name = raw.get("name", "")
  if not isinstance(name, str) or SEG_TOKEN in name:
    raise ValueError(f"a mask has no usable name: {str(name)[:40]!r}")
  return Mask(tuple(ids), edit, of, name)


def _check_edit(place, masks, things):
  """ValueError where a mask is not the edit of the earlier one that it says."""
  ids, edit, of, _ = masks[place]
  if edit == NEW:
    return
  if not 0 <= of < place or masks[of] is None:
    raise ValueError(f"mask {place} edits mask {of}, which is not before it")
  now, before = set(ids), set(masks[of].things)
  fits = {
    "add": before < now,
    "remove": now < before,
    "same": now == before,
    "other": not now & before,
    "part": bool(now) and all(_is_part(things, i, before) for i in now),
  }[edit]
  if not fits:
    raise ValueError(f"mask {place} is not: {EDITS[edit]} (mask {of})")


def _is_part(things, i, wholes):
  above = things[i].part_of
  while above and above not in wholes:
    above = things[above].part_of
  return bool(above)
