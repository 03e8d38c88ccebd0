"""SegConversation, the one record every source becomes, and how a defect is named."""

import dataclasses

from miras_jax.errors import UserError

WHOLE_FILE = "-"  # the RECORD of a defect that concerns the whole file
SEG_TOKEN = "[SEG]"
OBJ_TOKEN = "[OBJ]"
MOST_NAME, MOST_REASON = 200, 2000  # letters of a defect that are shown
EMPTY_NAME = "nothing"  # how an answer names an empty target, whose own name is ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegConversation:
  """A conversation about one image and the mask each `[SEG]` of it stands for.

  `turns` holds (role, text) pairs, role "user" or "assistant", user first. `targets`
  holds (name, mask) pairs, one per `[SEG]` of the assistant turns in order of
  appearance; a mask is a COCO RLE `{"size": [height, width], "counts": str}` of the
  size of the decoded image; an empty mask is a legal target and has the name "".
  `image` is the encoded file; `image_id` is equal for conversations on one image. A
  conversation without a picture has `image` b"", `image_id` "" and no targets.
  """

  id: str
  source: str
  image: bytes
  turns: tuple[tuple[str, str], ...]
  targets: tuple[tuple[str, dict], ...]
  image_id: str = ""

  @property
  def has_picture(self) -> bool:
    """Whether there is one, be its bytes here or left out (`image` b"" with an id)."""
    return bool(self.image or self.image_id)


def cut(text, most):
  """`text`, or its first `most` letters and how many there are."""
  text = str(text)
  return text if len(text) <= most else f"{text[:most]}... ({len(text):,} letters)"


def one_line(text):
  """`text` without line breaks or other characters that would garble a log line."""
  return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


@dataclasses.dataclass(frozen=True)
class Problem:
  """One defect. Prints as `FILE:RECORD: reason`, always a single line, which no name of
  a stranger's makes longer than a screen."""

  file: str
  record: int | str
  reason: str

  def __str__(self):
    record, reason = cut(self.record, MOST_NAME), cut(self.reason, MOST_REASON)
    return one_line(f"{self.file}:{record}: {reason}")


class RecordError(UserError):
  """A record that cannot be used. `RECORD` is "-" when the whole file is unusable."""

  def __init__(self, file, record, reason):
    super().__init__(file, record, reason)
    self.problem = Problem(file, record, reason)

  def __str__(self):
    return str(self.problem)

  @property
  def file(self):
    return self.problem.file

  @property
  def record(self):
    return self.problem.record

  @property
  def reason(self):
    return self.problem.reason
