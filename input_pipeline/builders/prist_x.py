"""PRIST-X (`input_pipeline.prist_x`) -> conversations: several targets, parts, none."""

from collections.abc import Iterator

from input_pipeline import image_ops, prist_x
from input_pipeline.builders.builder import Builder, Card
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.builders.photographs import read_photo
from input_pipeline.records import WHOLE_FILE, Problem, RecordError, SegConversation

CARD = Card(
  name="prist_x",
  version="1.0.0",
  title="PRIST-X: conversations with their reasoning trees",
  description=(
    "What `miras data construct` writes: the tree of a photograph, and conversations"
    " that ask for any number of masks: of several things, of parts at several levels,"
    " of nothing, and edits of earlier masks."
  ),
  homepage="docs/construct.md",
  citation="",
  licence="that of the photographs",
  layout="""\
SRC/trees/<split>.jsonl   a photograph a line: things with masks, tree, conversations
SRC/images/               the photographs""",
)
_ENDING = ".jsonl"


class PristX(Builder):
  """See the card."""

  card = CARD

  def splits(self, src: SourceFolder) -> tuple[str, ...]:
    files = src.list(prist_x.FOLDER, _ENDING)
    found = [name.split("/")[-1].removesuffix(_ENDING) for name in files]
    if not found:
      raise src.missing(f"{prist_x.FOLDER}/train{_ENDING}")
    known = ("train", "val", "test")
    return tuple(sorted(found, key=lambda n: (known.index(n) if n in known else 3, n)))

  def units(self, src: SourceFolder, split: str) -> Iterator[dict | RecordError]:
    file = f"{prist_x.FOLDER}/{split}{_ENDING}"
    try:
      with src.open(file) as lines:
        for number, data in enumerate(prist_x.lines(lines)):
          text = data.decode("utf-8", "surrogateescape")
          yield {"file": file, "line": number, "text": text}
    except ValueError as error:
      yield RecordError(file, WHOLE_FILE, str(error))

  def records(
    self, src: SourceFolder, unit
  ) -> Iterator[SegConversation | RecordError | Problem]:
    file, number = unit["file"], unit["line"]
    try:
      photo = prist_x.parse(unit["text"].encode("utf-8", "surrogateescape"))
      image = read_photo(src, f"images/{photo.img_id}").data
      height, width = image_ops.image_size(image)
      if (height, width) != (photo.height, photo.width):
        stated = f"{photo.width}x{photo.height}"
        raise ValueError(f"is for an image of {stated} pixels, it has {width}x{height}")
    except (ValueError, image_ops.ImageError) as error:
      yield RecordError(file, number, str(error))
      return
    for index, reason in photo.defects:
      yield RecordError(file, number, f"conversation {index}: {reason}")
    for index, talk in photo.talks.items():
      if None in talk.masks:
        reason = f"conversation {index}: a mask is still to be drawn"
        yield RecordError(file, number, reason)
        continue
      yield SegConversation(
        id=photo.record_id(f"{number}/{index}", talk),
        source="prist_x",
        image=image,
        turns=talk.turns,
        targets=tuple(map(photo.target, talk.masks)),
        image_id=f"prist_x/{photo.img_id}",
      )
