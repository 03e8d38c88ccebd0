"""Writes predictions.jsonl as `miras eval` does, of tiny masks."""

import json

import numpy as np

from input_pipeline import mask_ops

SIZE = 12
EMPTY = np.zeros((SIZE, SIZE), np.uint8)
SQUARE = EMPTY.copy()
SQUARE[2:8, 2:8] = 1
HALF = EMPTY.copy()
HALF[2:8, 2:5] = 1


def line(i, pred=SQUARE, true=SQUARE, **changes):
  """One conversation about image i // 2 with one target."""
  target = {
    "turn": 0,
    "index": 0,
    "name": "cup",
    "produced": True,
    "mask": mask_ops.encode_rle(pred),
    "iou": 1.0,
    "true": mask_ops.encode_rle(true),
  }
  turn = {"user": "The cup?", "answer": "[SEG]", "gold": "[SEG]", "num_seg": 1}
  return {
    "id": f"val/{i}",
    "image": f"{i // 2}.png",
    "turns": [turn],
    "targets": [target],
  } | changes


def write(folder, lines, about=None):
  """A folder as of `miras eval --out`; returns its path."""
  folder.mkdir(parents=True, exist_ok=True)
  text = "".join(json.dumps(x) + "\n" for x in lines)
  (folder / "predictions.jsonl").write_text(text)
  if about is not None:
    (folder / "metrics.json").write_text(json.dumps(about))
  return folder
