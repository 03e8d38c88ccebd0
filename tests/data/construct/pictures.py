"""Photographs with labels for tests of `miras data construct`: rectangles on grey."""

import json
import random

import numpy as np
from PIL import Image

from input_pipeline.annotations import find
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.image_ops import decode_image
from input_pipeline.narrate.things import make_scene
from input_pipeline.narrate.wordings import Wordings
from miras_jax.data.construct.measures import Measures

SIDE = 120
NAMES = (
  "kettle", "lamp", "book", "plate", "drum", "vase", "clock", "chair", "guitar",
  "pillow",
)  # fmt: skip
SHADES = {
  "red": (200, 30, 35), "blue": (40, 90, 200), "green": (50, 150, 70),
  "yellow": (245, 220, 60),
}  # fmt: skip


def make(root, count, seed=0):
  """root/images/*.png, root/masks/*.png and root/labels.json, as index PNGs."""
  (root / "images").mkdir(parents=True)
  (root / "masks").mkdir()
  (root / "labels.json").write_text(json.dumps(["background", *NAMES]))
  rng = random.Random(seed)
  for number in range(count):
    image_HWC, index_HW = draw(rng)
    Image.fromarray(image_HWC).save(root / "images" / f"p{number:03d}.png")
    Image.fromarray(index_HW).save(root / "masks" / f"p{number:03d}.png")
  return root


def draw(rng):
  """(image_HWC, index_HW) of six to eight things in cells of a grid."""
  image_HWC = np.full((SIDE, SIDE, 3), 128, np.uint8)
  noise = np.random.default_rng(rng.getrandbits(32))
  image_HWC += noise.integers(0, 9, (SIDE, SIDE, 1), dtype=np.uint8)
  index_HW = np.zeros((SIDE, SIDE), np.uint8)
  cells = rng.sample([(r, c) for r in range(3) for c in range(3)], rng.randint(6, 8))
  for value, (row, column) in zip(
    rng.sample(range(1, len(NAMES) + 1), len(cells)), cells, strict=True
  ):
    height, width = rng.choice([(10, 10), (16, 20), (28, 24), (40, 40)])
    top = 40 * row + rng.randint(0, 40 - height)
    left = 40 * column + rng.randint(0, 40 - width)
    place = np.s_[top : top + height, left : left + width]
    image_HWC[place] = rng.choice(list(SHADES.values()))
    index_HW[place] = value
  return image_HWC, index_HW


def read_measures(root, name):
  """Measures of one photograph of `make`."""
  src = SourceFolder(root)
  form = find.find_form(src)
  unit = next(u for u in form.units(src) if u["image"] == f"images/{name}")
  photo = form.read(src, unit)
  return Measures(make_scene(photo, decode_image(photo.image), Wordings.load(), 0.001))
