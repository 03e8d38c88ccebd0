"""Records and sources made in memory for audits."""

import cv2
import numpy as np

from input_pipeline import mask_ops
from input_pipeline import source as source_lib
from input_pipeline import words as words_lib
from input_pipeline.audit.findings import collected
from input_pipeline.audit.run import Part, audit
from input_pipeline.records import SegConversation
from tests import prist_files

HEIGHT, WIDTH = 60, 80
LEFT, RIGHT = (slice(10, 40), slice(4, 30)), (slice(10, 40), slice(50, 76))


def mask(*places):
  """A mask of rectangles, each (rows, columns)."""
  mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
  for place in places:
    mask_HW[place] = 1
  return mask_HW


def photo(seed=0, **places):
  """A picture of its own, with details; `red=LEFT` paints a place."""
  coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
  image_HWC = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
  paints = {"red": (200, 20, 30), "blue": (20, 40, 210), "white": (240, 240, 240)}
  for name, place in places.items():
    image_HWC[place] = paints[name]
  return image_HWC


def conversation(number=0, *, image=None, image_id=None, targets=None, turns=None):
  """Record `number` about a picture of its own, one [SEG] a target: a cup."""
  targets = [("cup", mask(LEFT))] if targets is None else targets
  image_HWC = photo(number) if image is None else image
  answer = " ".join("[SEG]" for _ in targets)
  return SegConversation(
    id=str(number),
    source="made",
    image=prist_files.encode(image_HWC),
    image_id=f"{number}.png" if image_id is None else image_id,
    turns=turns or (("user", "Where is it?"), ("assistant", f"Here: {answer}.")),
    targets=tuple((name, mask_ops.encode_rle(m)) for name, m in targets),
  )


class Made(source_lib.Source):
  """Records as they are given; a RecordError is a defective one."""

  def __init__(self, *records, file="val"):
    self.records, self.file = records, file
    self.image_ids = tuple(getattr(record, "image_id", "") for record in records)

  def __len__(self):
    return len(self.records)

  def load(self, i):
    return self.records[i]

  def fingerprint(self):
    return len(self)


def audited(*sources, against=(), least_pixels=64, threads=2):
  """(counts that are not 0, all findings as text) of an audit of these sources."""
  parts = [Part(source.file, source, audited=False) for source in against]
  parts += [Part(source.file, source) for source in sources]
  with collected() as findings:
    audit(parts, findings, words_lib.load(), least_pixels=least_pixels, threads=threads)
    lines = [f"{r['file']}:{r['record']}: {r['reason']}" for r in findings.rows()]
    return {kind: n for kind, n in findings.counts.items() if n}, lines
