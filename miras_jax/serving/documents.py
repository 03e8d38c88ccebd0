"""Conversations and masks as JSON, and as labelme's own file."""

import base64
import io

import numpy as np
from PIL import Image

from miras_jax.inference.masks import Mask
from miras_jax.serving.talks import KeptMask, Talk, Turn


def mask_json(talk: Talk, mask: KeptMask, number: int) -> dict:
  """`number` is what `refers_to` takes."""
  array_HW = mask.array()
  return {
    "number": number,
    "words": mask.words,
    "span": mask.span,
    "iou": round(mask.iou, 4),
    "area": int(array_HW.sum()),
    "box": box_of(array_HW),
    "png": f"/v1/conversations/{talk.id}/masks/{number}.png",
    "rle": mask.rle,
    "polygons": Mask(array_HW, mask.iou, mask.span).polygons(),
  }


def turn_json(talk: Talk, turn: Turn, number: int) -> dict:
  """A turn; its masks are counted over the whole conversation."""
  before = sum(len(turn.masks) for turn in talk.turns[:number])
  return {
    "conversation": talk.id,
    "turn": number,
    "asked": turn.asked,
    "text": turn.text,
    "masks": [mask_json(talk, m, before + k) for k, m in enumerate(turn.masks)],
    "num_seg": turn.num_seg,
    "dropped_rounds": turn.dropped_rounds,
    "seconds": round(turn.seconds, 3),
  }


def talk_json(talk: Talk) -> dict:
  """A conversation with all its turns."""
  return {
    "conversation": talk.id,
    "image": {"name": talk.name, "height": talk.size[0], "width": talk.size[1]},
    "created": round(talk.created, 3),
    "turns": [turn_json(talk, turn, k) for k, turn in enumerate(talk.turns)],
  }


def box_of(mask_HW) -> list[int] | None:
  """[x0, y0, x1, y1] around a mask, the last ones outside; None for an empty one."""
  rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
  if not len(rows):
    return None
  return [int(n) for n in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


def mask_png(mask_HW) -> bytes:
  """Black and white: 255 inside."""
  stream = io.BytesIO()
  Image.fromarray(np.asarray(mask_HW, np.uint8) * 255).save(stream, "PNG")
  return stream.getvalue()


def labelme_json(talk: Talk) -> dict:
  """labelme's file: each mask a shape of type `mask`, two corners and its PNG."""
  height, width = talk.size
  masks = [m for m in talk.masks if m.array().any()]
  return {
    "version": "5.5.0",
    "flags": {},
    "shapes": [_shape(mask) for mask in masks],
    "imagePath": talk.name,
    "imageData": None,
    "imageHeight": height,
    "imageWidth": width,
  }


def _shape(mask):
  array_HW = mask.array()
  x0, y0, x1, y1 = box_of(array_HW)
  crop = mask_png(array_HW[y0:y1, x0:x1])
  return {
    "label": mask.words or "object",
    "points": [[x0, y0], [x1 - 1, y1 - 1]],
    "group_id": None,
    "description": f"predicted IoU {mask.iou:.2f}",
    "shape_type": "mask",
    "flags": {},
    "mask": base64.b64encode(crop).decode(),
  }
