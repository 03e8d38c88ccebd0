"""Dialogues without masks, in LLaVA's form: `{id, image?, conversations}` in lists."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from input_pipeline.builders import fields, picture_ids
from input_pipeline.builders.builder import Builder, Card, Unit
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.grouping import grouped
from input_pipeline.builders.lists import numbered, value
from input_pipeline.builders.photographs import find, read_photo
from input_pipeline.prist_dialogue import parse_dialogue
from input_pipeline.records import RecordError, SegConversation
from miras_jax.errors import UserError

SPLIT = "train"  # none of these sources has another
_IMAGE_DATA = ("vg/image_data.json", "image_data.json")
_IMAGE_TOKEN = "<image>"
_IMAGE_MARK = re.compile(rf"\s*{_IMAGE_TOKEN}\s*")
# Of a conversation that means to show a picture: the token is a line of its own.
_SHOWS = re.compile(rf"^\s*{_IMAGE_TOKEN}\s*\n|\n\s*{_IMAGE_TOKEN}\s*$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lists:
  """One data set: its card, its list files, what paths of pictures begin with.

  prefixes: what may stand below DIR before the path that the list states.
  """

  card: Card
  files: tuple[str, ...]
  prefixes: tuple[str, ...] = ("", "data/", "playground/data/")


class DialogueLists(Builder):
  """What such sources share.

  Pictures have one unit for all their conversations, in whichever list; a conversation
  without a picture is a unit of its own. The token `<image>` goes, since the pipeline
  puts the picture before the first question itself.
  """

  known: Mapping[str, Lists]  # of a family, by name

  def __init__(self, which: str, *, prefixes: str = ""):
    """prefixes: keep only conversations about pictures whose paths begin with one of
    these, separated by commas; "" keeps all, also those without a picture."""
    self._lists = self.known[which]
    self.card = self._lists.card
    self._kept = tuple(filter(None, prefixes.split(",")))
    if prefixes and not self._kept:
      raise UserError(f"--prefixes={prefixes}: want paths, separated by commas")

  def options(self) -> Mapping[str, Any]:
    return {"prefixes": ",".join(self._kept)}

  def picture_path(self, stated: str) -> str:
    """The path of a picture below DIR from the one that a list states."""
    return stated

  def other_places(self, path: str) -> tuple[str, ...]:
    """Where else a picture may be, below DIR."""
    return ()

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    for file in self._lists.files:
      if not _list_file(src, file):
        raise src.missing(file)
    return (SPLIT,)

  def units(self, src: SourceFolder, split: str) -> Iterator[Unit | RecordError]:
    coco_numbers = picture_ids.read_coco_numbers(src, *_IMAGE_DATA)
    with grouped(fields.as_pairs(self._entries(src))) as groups:
      yield from fields.errors(groups)
      for key, items in groups:
        if key == fields.ERRORS:
          continue
        file, _, photo, _ = items[0]
        unit = {"file": file, "photo": photo, "image_id": "", "items": items}
        if photo is not None:
          unit["image_id"] = picture_ids.of_path(photo, coco_numbers)
        yield unit

  def _entries(self, src):
    """(key of the unit, [file, index, path of the picture, turns])."""
    for file in self._lists.files:
      name = _list_file(src, file)
      for index, entry in numbered(src, name):
        try:
          stated = self._stated(entry)
          turns = value(entry, "conversations", list)
          photo = None if stated is None else _checked(self.picture_path(stated))
        except ValueError as error:
          yield RecordError(name, index, str(error))
          continue
        if self._kept and not (stated or "").startswith(self._kept):
          continue  # asked for; the counts say how many were built
        key = f"text {name} {index}" if photo is None else f"photo {photo}"
        yield key, [name, index, photo, turns]

  def _stated(self, entry):
    """The path of the picture; None: a conversation without one."""
    if isinstance(entry, dict) and entry.get("image") is None:
      return None
    stated = value(entry, "image", str)
    if not stated.strip():
      raise ValueError(f"image {stated!r} is no path of a file")
    return stated

  def records(
    self, src: SourceFolder, unit: Unit
  ) -> Iterator[SegConversation | RecordError]:
    image, problem = b"", ""
    try:
      if unit["photo"] is not None:
        image = read_photo(src, self._find(src, unit["photo"])).data
    except ValueError as error:
      problem = str(error)
    for file, index, _, turns in unit["items"]:
      try:
        if problem:
          raise ValueError(problem)
        turns = read_turns(turns, has_picture=unit["photo"] is not None)
      except ValueError as error:
        yield RecordError(file, index, str(error))
        continue
      yield SegConversation(
        id=f"{SPLIT}/{pathlib.PurePosixPath(file).stem}/{index}",
        source=self.card.name,
        image=image,
        turns=turns,
        targets=(),
        image_id=unit["image_id"],
      )

  def _find(self, src, path):
    """The picture's file; `path` itself where there is none, to be named."""
    found = find(src, path, self._lists.prefixes)
    return next((p for p in (found, *self.other_places(path)) if src.is_file(p)), path)


def read_turns(turns: list, *, has_picture: bool) -> tuple[tuple[str, str], ...]:
  """{from, value} turns -> (role, text) pairs. ValueError for what cannot be used.

  What a system turn at the very start says opens the first question.
  """
  turns = _fold_system(turns)
  parsed = parse_dialogue({"conversations": turns}, "conversations")
  if not has_picture and _SHOWS.search(parsed[0][1]):
    raise ValueError(f"says {_IMAGE_TOKEN} and has no image")
  out = []
  for k, (role, text) in enumerate(parsed):
    if has_picture:
      text = _IMAGE_MARK.sub(_gap, text)
    if role == "assistant":
      text = fields.answer(text, f"turn {k}")
    out.append((role, text.strip()))
  return tuple(out)


def _fold_system(turns):
  first = turns[0] if turns else None
  if not isinstance(first, dict) or first.get("from") != "system":
    return turns
  system, rest = first.get("value"), turns[1:]
  question = rest[0] if rest else None
  texts = (system, question.get("value") if isinstance(question, dict) else None)
  if not all(isinstance(text, str) for text in texts):
    raise ValueError("its system turn has no question after it")
  if question.get("from") != "human":
    raise ValueError(f"turn 1 is from {question.get('from')!r}, want 'human'")
  return [question | {"value": "\n\n".join(texts)}, *rest[1:]]


def _gap(match):
  return "\n" if "\n" in match[0] else " "


def _checked(path):
  """`path` in one spelling. ValueError for one that is no path below a folder."""
  parts = [part for part in path.split("/") if part not in ("", ".")]
  if not parts:
    raise ValueError(f"image {path!r} is no path of a file")
  if path[0] == "/" or ".." in parts:
    raise ValueError(f"image {path!r} leaves the folder of the data set")
  return "/".join(parts)


def _list_file(src, name):
  """A list, at its place or at the root of the source."""
  return src.first(name, name.rsplit("/", 1)[-1])
