"""A source of numbered photographs, some of them bad: the least that a builder is.

`list.txt` has one line a photograph, its kind: "good", "odd", "text" or one of BAD.
"""

import dataclasses
import json

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.builders.builder import Builder, Card
from input_pipeline.records import Problem, RecordError, SegConversation
from tests import prist_files

SIZE = 12, 16
BAD = (
  "missing", "truncated", "empty_file", "no_image", "mask_size", "bad_rle", "seg_count",
  "surrogate",
)  # fmt: skip
TEXT = SegConversation(
  id="",
  source="numbered",
  image=b"",
  turns=(("user", "Hi"), ("assistant", "é")),
  targets=(),
)
CARD = Card(
  name="numbered",
  version="1.0.0",
  title="Numbered pictures",
  description="For tests.",
  homepage="https://example.org/numbered",
  citation="@misc{numbered}",
  licence="none stated",
  layout="  list.txt\n  photo.png",
  published={"train": {"conversations": 1000}},
)


class Numbered(Builder):
  """See the module. `per_photo` conversations about each photograph."""

  card = CARD

  def __init__(self, per_photo: int = 1):
    self.per_photo = per_photo

  def options(self):
    return {"per_photo": self.per_photo}

  def splits(self, src):
    if not src.is_file("list.txt"):
      raise src.missing("list.txt")
    return ("train",)

  def units(self, src, split):
    for i, kind in enumerate(src.read("list.txt").decode().split()):
      if kind == "missing":
        yield RecordError("list.txt", i, "no such photograph")
      else:
        yield {"file": "list.txt", "number": i, "kind": kind}

  def records(self, src, unit):
    number, kind = unit["number"], unit["kind"]
    if kind == "text":
      yield dataclasses.replace(TEXT, id=f"{number}/0")
      return
    if kind == "odd":
      yield Problem("list.txt", number, "is odd")
    for k in range(self.per_photo):
      yield _record(src, number, kind, k)


def _record(src, number, kind, k):
  image = src.read("photo.png") + number.to_bytes(4, "big")  # after the end: no pixel
  mask = np.zeros(SIZE, np.uint8)
  mask[number % 10 : number % 10 + 2, k : k + 3] = 1
  rle = mask_ops.encode_rle(mask)
  answer = "Here: [SEG]."
  if kind == "truncated":
    image = image[: len(image) // 2]
  if kind == "empty_file":
    image = image[:4]
  if kind == "no_image":
    image = b"this is text, no picture"
  if kind == "mask_size":
    rle = mask_ops.encode_rle(mask[1:])
  if kind == "bad_rle":
    rle = rle | {"counts": "!!"}
  if kind == "seg_count":
    answer += " [SEG]"
  if kind == "surrogate":
    answer += json.loads('"\\ud800"')
  return SegConversation(
    id=f"{number}/{k}",
    source="numbered",
    image=image,
    image_id=f"numbered/{number:05d}",
    turns=(("user", f"Where is thing {number}?"), ("assistant", answer)),
    targets=((f"thing {number}", rle),),
  )


def write(folder, kinds):
  """A source whose photographs are of these kinds."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "list.txt").write_text("\n".join(kinds))
  photo = prist_files.photo(*SIZE)
  (folder / "photo.png").write_bytes(prist_files.encode(photo))
  return folder
