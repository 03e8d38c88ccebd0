"""What every data set is to the pipeline: a source of examples by index.

PRIST's folders (`prist`), the first records of a source (`subset`), rows that hold
several conversations (`packing`) and mixtures (`mixture`) are sources; `open_source`
opens one by name.
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from input_pipeline.conversation import ConversationError, encode_conversation
from input_pipeline.records import RecordError, SegConversation

Loaded = SegConversation | RecordError


class Dialogue(NamedTuple):
  """What a record says, without its image: its turns and the names of its targets."""

  turns: Sequence[tuple[str, str]]
  names: Sequence[str]


class Size(NamedTuple):
  """What an example takes of a row: tokens up to <im_end>, tokens after, [SEG]s."""

  prefix: int
  talk: int
  segs: int


@runtime_checkable
class Source(Protocol):
  """Examples by index, 0 to len - 1, and what is known of them without their images.

  An example is one record, or several that share a row; records are counted on their
  own (`num_records`), and `members` leads from the one to the other.

  file: what a message calls the source, e.g. `train.json`.
  image_ids: for each example the id of its image, equal for examples on one image and
    for no others; "" where there is none.
  """

  file: str
  image_ids: Sequence[str]

  @abc.abstractmethod
  def __len__(self) -> int:
    """How many examples there are."""

  @abc.abstractmethod
  def load(self, i: int) -> Loaded | tuple[Loaded, ...]:
    """Example `i`: its record, or the tuple of the records that share its row.

    A defective record is returned as the RecordError that names it, so that training
    goes on without it. Raises IndexError when there is no such example.
    """

  @abc.abstractmethod
  def fingerprint(self) -> Any:
    """A JSON-able value, equal for equal examples in equal order, on any machine."""

  def files_fingerprint(self) -> Any:
    """A JSON-able value that another photograph or mask changes; None: nobody knows.

    Apart from `fingerprint`, which is of the records alone: pictures may be looked at
    from names and sizes, so equal values do not prove equal pixels.
    """
    return None

  def dialogues(self) -> Iterator[Dialogue | None]:
    """What each record says, in order; None for one that is known to be defective.

    A source that can say it without reading images overrides this.
    """
    for i in range(len(self)):
      record = self.load(i)
      if isinstance(record, RecordError):
        yield None
      else:
        yield Dialogue(record.turns, [name for name, _ in record.targets])

  def sizes(self, tokenizer: Any, text_options: Mapping) -> Sequence[Size | None]:
    """Size of each example; None where it is defective or fits no row.

    text_options: those of `encode_conversation` (`DataConfig.text_options`).
    """
    return tuple(_size(said, tokenizer, text_options) for said in self.dialogues())

  def members(self, i: int) -> tuple[int, ...]:
    """The numbers of the records that example `i` is made of."""
    return (range(len(self))[i],)

  def num_records(self) -> int:
    """How many records all examples are made of."""
    return len(self)

  def file_of(self, record: int) -> str:
    """What a message calls the file of a record."""
    return self.file


def _size(dialogue, tokenizer, text_options):
  if dialogue is None:
    return None
  turns, names = dialogue
  try:
    row = encode_conversation(turns, tokenizer, names=names, **text_options)
  except ConversationError:
    return None  # it is named when it is loaded
  talk = len(row.tokens_L) - row.prefix_length
  return Size(row.prefix_length, talk, len(row.seg_pos_K))
