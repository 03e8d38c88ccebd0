"""Records made of a number, and pipelines of them."""

import cv2
import numpy as np

from input_pipeline.mask_ops import encode_rle
from input_pipeline.pipeline import DataConfig, make_pipeline
from input_pipeline.records import RecordError, SegConversation

HEIGHT, WIDTH = 12, 16


CFG = DataConfig(max_len=96, max_masks=2, sam_size=16, aux_size=8, num_image_tokens=4)


def turns(i, answer="It is [SEG]."):
  return (("user", f"Where is thing {i}?"), ("assistant", answer))


class Source:
  """`size` records, each with its own image and mask; those in `bad` are defective."""

  file = "train.json"

  def __init__(self, size, *, bad=(), answer="It is [SEG].", targets=1):
    self.size, self.bad, self.answer, self.targets = size, bad, answer, targets
    self.loads = []

  def __len__(self):
    return self.size

  def load(self, i):
    self.loads.append(i)
    if i in self.bad:
      return RecordError(self.file, i, "no such file")
    image_HWC = np.full((HEIGHT, WIDTH, 3), i % 256, np.uint8)
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask_HW[: 1 + i % HEIGHT] = 1
    return SegConversation(
      id=f"train/{i}",
      source="fake",
      image=cv2.imencode(".png", image_HWC)[1].tobytes(),
      turns=turns(i, self.answer),
      targets=(("thing", encode_rle(mask_HW)),) * self.targets,
      image_id=f"{i}.png",
    )


def make(source, tokenizer, cfg=CFG, **options):
  options = {"batch_size": 4, "seed": 3, "report": lambda line: None} | options
  return make_pipeline(source, tokenizer, cfg, **options)


def take(pipeline, count):
  return [next(pipeline) for _ in range(count)]


def records(batches):
  return [int(r) for batch in batches for r in batch["record"]]


def assert_equal(batches, others):
  for batch, other in zip(batches, others, strict=True):
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key], err_msg=key)
