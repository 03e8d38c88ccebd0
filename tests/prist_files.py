"""Writes tiny data sets in PRIST's layout for tests."""

import io
import json

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
SQUARE = [[4, 4], [12, 4], [12, 12], [4, 12]]


def encode(image, kind="PNG", **options):
  """An array or a PIL image -> encoded bytes."""
  stream = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(stream, kind, **options)
  return stream.getvalue()


def photo(height=HEIGHT, width=WIDTH, seed=0):
  """A smooth random RGB image, which JPEG keeps well."""
  coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
  return np.asarray(Image.fromarray(coarse).resize((width, height), 2))


def shape(label, points=SQUARE, kind="polygon"):
  return {"label": label, "points": points, "shape_type": kind}


def labelme(*shapes, height=HEIGHT, width=WIDTH):
  return {"shapes": list(shapes), "imageHeight": height, "imageWidth": width}


def record(img_id="a.png", focus="cup", answer="Sure, [SEG].", **changes):
  dialogue = [
    {"from": "human", "value": "Where is it?"},
    {"from": "gpt", "value": answer},
  ]
  return {"img_id": img_id, "dialogue": dialogue, "focus": focus} | changes


def write(root, records, *, split="val", annotation=None, image=None):
  """A data set with one photograph, `a.png`, and its labelme file."""
  for folder in ("images", "masks"):
    (root / folder).mkdir(parents=True, exist_ok=True)
  (root / f"{split}.json").write_text(json.dumps(records))
  annotation = labelme(shape("cup")) if annotation is None else annotation
  (root / "masks" / "a.json").write_text(json.dumps(annotation))
  (root / "images" / "a.png").write_bytes(encode(photo()) if image is None else image)
  return root
