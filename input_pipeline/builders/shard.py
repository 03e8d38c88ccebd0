"""One shard of a data set: units in, an ArrayRecord file and its side files out.

NNNNN.array_record     examples (`schema`)
NNNNN.dialogues.jsonl  what each conversation says, for whoever needs no pictures
NNNNN.rejected.jsonl   what could not be used, and why
NNNNN.notes.jsonl      what was odd and is used all the same
NNNNN.json             counts and digests; written last: the shard is done
"""

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterator

from input_pipeline import image_ops, mask_ops
from input_pipeline.builders import schema
from input_pipeline.conversation import count_segs
from input_pipeline.records import Problem, RecordError, SegConversation

OPTIONS = "group_size:1"  # random reads
KINDS = ("array_record", "dialogues.jsonl", "rejected.jsonl", "notes.jsonl", "json")


def file(folder, number: int, kind: str) -> pathlib.Path:
  """Path of one of the KINDS of files of a shard."""
  return pathlib.Path(folder) / f"{number:05d}.{kind}"


def write(builder, src, folder, number: int, lines) -> dict:
  """Builds a shard from its lines of the plan, unless it is done -> its counts.

  Runs in any process. What a killed run left half-written is written anew.
  """
  done = file(folder, number, "json")
  if done.is_file():
    return json.loads(done.read_text())
  with _Writer(folder, number) as writer:
    for line in lines:
      unit = json.loads(line)
      for result in _checked(builder, src, unit):
        writer.add(result)
  half = done.with_suffix(".tmp")
  half.write_text(json.dumps(writer.counts()))
  half.rename(done)
  return writer.counts()


def _checked(builder, src, unit) -> Iterator[SegConversation | RecordError | Problem]:
  """The records of a unit, each proven to be whole, and what is wrong with others."""
  sizes = {}
  try:
    for record in builder.records(src, unit):
      if isinstance(record, RecordError | Problem):
        yield record
      elif reason := defect(record, sizes):
        yield RecordError(unit.get("file", record.image_id or "-"), record.id, reason)
      else:
        yield record
  except RecordError as error:
    yield error


def defect(record, sizes) -> str:
  """Why a record cannot be stored; "": it can. sizes: of pictures that decode whole."""
  segs = sum(count_segs(text) for role, text in record.turns if role == "assistant")
  if segs != len(record.targets):
    return f"{segs} [SEG] in the answers but {len(record.targets)} targets"
  if any(role != schema.ROLES[i % 2] for i, (role, _) in enumerate(record.turns)):
    return "its turns are not user and assistant in turn"
  if len(record.turns) % 2 or not record.turns:
    return "it does not end with an answer"
  try:
    "\0".join(_texts(record)).encode()
    if record.image and record.image not in sizes:
      sizes.clear()  # one photograph at a time
      sizes[record.image] = list(image_ops.decode_image(record.image).shape[:2])
    size = sizes.get(record.image)
    for name, rle in record.targets:
      if list(rle["size"]) != size:
        return f"the mask of {name!r} has size {rle['size']}, the picture {size}"
      mask_ops.rle_area(rle)
  except UnicodeEncodeError:
    return "its text holds half of a character (a lone surrogate)"
  except (image_ops.ImageError, ValueError) as error:
    return str(error)
  return ""


def _texts(record):
  yield from (record.id, record.image_id)
  yield from (text for _, text in record.turns)
  yield from (name for name, _ in record.targets)


class _Writer:
  """Collects the conversations of a photograph and writes them as one example."""

  def __init__(self, folder, number):
    import tensorflow_datasets as tfds
    from array_record.python import array_record_module

    self._features = schema.features()
    self._serialiser = tfds.core.example_serializer.ExampleSerializer(
      self._features.get_serialized_info()
    )
    paths = [file(folder, number, kind) for kind in KINDS[:4]]
    self._examples = array_record_module.ArrayRecordWriter(str(paths[0]), OPTIONS)
    streams = [open(path, "wb") for path in paths[1:]]
    self._dialogues, self._rejected, self._notes = streams
    self._pending = []
    self._digests = hashlib.sha256(), hashlib.sha256()  # of dialogues, of examples
    self._images, self._groups = [], []
    self._targets = self._empty = self._bytes = self._defects = 0

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._flush()
    self._examples.close()
    for stream in (self._dialogues, self._rejected, self._notes):
      stream.flush()
      os.fsync(stream.fileno())
      stream.close()

  def add(self, result):
    """A record, the reason why there is none, or a note."""
    if isinstance(result, RecordError | Problem):
      defect = isinstance(result, RecordError)
      self._defects += defect
      line = [result.file, result.record, result.reason]
      stream = self._rejected if defect else self._notes
      stream.write(json.dumps(line).encode() + b"\n")
      return
    first = self._pending[0] if self._pending else result
    together = (result.image_id, result.image) == (first.image_id, first.image)
    if not together or len(self._pending) == schema.MAX_CONVERSATIONS:
      self._flush()
    self._pending.append(result)

  def _flush(self):
    records, self._pending = self._pending, []
    if not records:
      return
    example = self._features.encode_example(schema.to_example(records))
    message = self._serialiser.get_tf_example(example)
    data = message.SerializeToString(deterministic=True)  # equal in every process
    self._examples.write(data)
    self._digests[1].update(data)
    self._bytes += len(data)
    self._images.append(records[0].image_id)
    self._groups.append(len(records))
    for record in records:
      names = [name for name, _ in record.targets]
      line = json.dumps({"turns": record.turns, "names": names}).encode() + b"\n"
      self._dialogues.write(line)
      self._digests[0].update(record.id.encode() + b"\0" + line)
      self._targets += len(names)
      self._empty += sum(not mask_ops.rle_area(rle) for _, rle in record.targets)

  def counts(self) -> dict:
    """What is known of the shard once it is closed."""
    return {
      "examples": len(self._images),
      "conversations": sum(self._groups),
      "targets": self._targets,
      "empty_targets": self._empty,
      "rejected": self._defects,
      "bytes": self._bytes,
      "image_ids": self._images,
      "groups": self._groups,
      "digests": [digest.hexdigest() for digest in self._digests],
    }


def lines_of(path, first: int, count: int) -> Iterator[bytes]:
  """Lines `first` to `first + count` of the plan."""
  with open(path, "rb") as plan:
    yield from itertools.islice(plan, first, first + count)
