"""How conversations lie in ArrayRecord: an example is a photograph and all its own.

A photograph often has tens of conversations (RefCOCO seven, Visual Genome fifty) and is
stored once. TFDS allows one ragged level, so turns and targets are flat lists that say
which conversation they belong to. Text without a photograph has a picture of one pixel
and the `image_id` "".
"""

import base64
import io
from collections.abc import Sequence

import numpy as np

from input_pipeline.records import SegConversation

ROLES = ("user", "assistant")
MAX_CONVERSATIONS = 64  # of one example: what a read costs stays bounded
# A grey PNG of one pixel, where a photograph has to be and there is none.
NO_PICTURE = base64.b64decode(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJ"
  "RU5ErkJggg=="
)


def features():
  """The `tfds.features.FeaturesDict` of an example."""
  import tensorflow_datasets as tfds  # half a second, which few commands need

  f = tfds.features
  number = f.Scalar(dtype=np.int32, doc="which conversation of the example, from 0")
  return f.FeaturesDict(
    {
      "image_id": f.Text(doc="equal for equal photographs, also of other sources"),
      "image": f.Image(doc="as published; EXIF orientation is to be applied"),
      "conversations": f.Sequence({"id": f.Text(), "source": f.Text()}),
      "turns": f.Sequence(
        {"conversation": number, "role": f.ClassLabel(names=ROLES), "text": f.Text()}
      ),
      "targets": f.Sequence(
        {
          "conversation": number,
          "name": f.Text(doc='"" for an empty target'),
          "size": f.Tensor(shape=(2,), dtype=np.int32, doc="height, width"),
          "counts": f.Text(doc="COCO run-length encoding"),
        },
        doc="one for each [SEG] of the assistant turns, in order of appearance",
      ),
    }
  )


def to_example(records: Sequence[SegConversation]) -> dict:
  """Conversations about one photograph -> what `features()` encodes."""
  numbered = list(enumerate(records))
  return {
    "image_id": records[0].image_id,
    "image": io.BytesIO(records[0].image or NO_PICTURE),
    "conversations": [{"id": r.id, "source": r.source} for r in records],
    "turns": [
      {"conversation": k, "role": role, "text": text}
      for k, record in numbered
      for role, text in record.turns
    ],
    "targets": [
      {"conversation": k, "name": name, **rle}
      for k, record in numbered
      for name, rle in record.targets
    ],
  }


def from_example(example: dict, k: int) -> SegConversation:
  """Conversation `k` of an example that was read without decoding the picture."""
  turns, targets = example["turns"], example["targets"]
  image_id = _text(example["image_id"])
  return SegConversation(
    id=_text(example["conversations"]["id"][k]),
    source=_text(example["conversations"]["source"][k]),
    image=example["image"] if image_id else b"",
    image_id=image_id,
    turns=tuple(
      (ROLES[int(turns["role"][t])], _text(turns["text"][t])) for t in _of(turns, k)
    ),
    targets=tuple(
      (
        _text(targets["name"][t]),
        {
          "size": [int(n) for n in targets["size"][t]],
          "counts": _text(targets["counts"][t]),
        },
      )
      for t in _of(targets, k)
    ),
  )


def _of(part, k):
  return [t for t, number in enumerate(part["conversation"]) if number == k]


def _text(value):
  return value.decode() if isinstance(value, bytes) else str(value)
