"""Results, lines and examples to make report pages of."""

import numpy as np

from input_pipeline import mask_ops
from miras_jax import drawing
from miras_jax.evaluation import report

SIZE = 32
NONE = {"value": None, "low": None, "high": None, "n": 0}


def metric(value):
  return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 7}


def result(**more):
  return {
    "metrics": {"ciou": metric(0.61), "giou": metric(0.5), "no_target_accuracy": NONE},
    "controls": {"last_turn_only": {"ciou": metric(0.2)}},
    "teacher_forced": {"ciou": metric(0.66)},
    "per_turn": {"4": {"ciou": metric(0.6), "giou": metric(0.5)}},
    "config": {"steps": 3},
    "data": {"split": "val"},
    "checkpoint": "runs/x",
  } | more


def box(left, right, size=SIZE):
  """Columns left to right, all of the height, as RLE."""
  mask = np.zeros((size, size), np.uint8)
  mask[:, left:right] = 1
  return mask_ops.encode_rle(mask)


def target(mask, true, name="cup", turn=0, index=0):
  """A target of a line, its IoU counted from the RLEs."""
  shared = mask_ops.rle_overlap(mask, true)
  union = mask_ops.rle_area(mask) + mask_ops.rle_area(true) - shared
  return {
    "turn": turn,
    "index": index,
    "name": name,
    "produced": True,
    "mask": mask,
    "iou": shared / union if union else 1.0,
    "true": true,
  }


def line(number, *targets, image=None, text="which cup?", turns=1, **more):
  """A line of predictions.jsonl; by default one target, found but for a part of it."""
  targets = targets or (target(box(0, 8), box(0, 10)),)
  due = [sum(t["turn"] == i for t in targets) for i in range(turns)]
  said = {"user": text, "answer": text, "gold": text + "?"}
  return {
    "id": f"val/{number}",
    "image": image or f"{number}.png",
    "turns": [said | {"num_seg": count} for count in due],
    "targets": list(targets),
  } | more


def example(shown, image_HWC=None):
  """The `drawing.Example` of a line: image, target, prediction and one control."""
  if image_HWC is None:
    image_HWC = np.full((SIZE, SIZE, 3), 90, np.uint8)
  masks = {
    key: tuple(mask_ops.decode_rle(t[key]) for t in shown["targets"])
    for key in ("true", "mask")
  }
  panels = (
    drawing.Panel("image", image_HWC),
    drawing.Panel("target", image_HWC, masks["true"]),
    drawing.Panel("prediction", image_HWC, masks["mask"]),
    drawing.Panel("swapped image", image_HWC, masks["mask"]),
  )
  turns = tuple((t["user"], t["answer"], t["gold"]) for t in shown["turns"])
  return drawing.Example(shown["id"], turns, panels, "IoU")


def write(folder, lines=(), log=None, draw=None, count=16, **more):
  """The text of the page of these lines."""
  lines = list(lines)
  draw = draw or (lambda i: example(lines[i]))
  path = report.write_report(folder, result(**more), lines, draw, log, count=count)
  return path.read_text()
