"""Small files of predictions, and the photographs they are about."""

import json

import numpy as np
from PIL import Image

from input_pipeline import mask_ops

THINGS = ("red cup", "blue ball", "green chair", "old lamp", "grey cat", "tall vase")
SIZE = (24, 32)


def line(i, answers=None, **fields):
  """One conversation: the thing is asked for and found on the left."""
  thing = THINGS[i % len(THINGS)]
  answers = answers or ("There are two of them.", f"It is the {thing}[SEG].")
  asked = (f"Is there a {thing}?", "Mark the left one.")
  gold = ("Yes, two.", f"Here is the {thing}[SEG].")
  mask_HW = np.zeros(SIZE, np.uint8)
  mask_HW[4:12, 2 : 6 + i] = 1
  rle = mask_ops.encode_rle(mask_HW)
  turns = [
    {"user": u, "answer": a, "gold": g, "num_seg": 0}
    for u, a, g in zip(asked, answers, gold, strict=True)
  ]
  target = {"turn": 1, "index": 0, "name": thing, "produced": True, "mask": rle}
  target |= {"iou": 0.8, "true": rle}
  return {"id": f"c{i}", "image": f"{i // 2}.png", "turns": turns} | (
    {"targets": [target]} | fields
  )


def write(path, lines):
  path.write_text("".join(json.dumps(x) + "\n" for x in lines))
  return path


def photographs(folder, count=3):
  folder.mkdir()
  for i in range(count):
    pixels = np.full((*SIZE, 3), 40 * i, np.uint8)
    Image.fromarray(pixels).save(folder / f"{i}.png")
  return folder
