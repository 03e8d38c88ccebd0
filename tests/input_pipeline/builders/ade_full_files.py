"""ADE20K in its full form: one picture with a car, its doors, a handle, a building."""

import json

import numpy as np
from PIL import Image

from tests.input_pipeline.builders.in_memory import box, write_photo

SIZE = 20, 30
CAR, DOOR, HANDLE, BUILDING = 401, 774, 2978, 312
CAR_BOX, FACADE = (8, 4, 18, 24), (0, 0, 8, 30)
CAR_DOOR, HOUSE_DOOR, GRIP = (10, 6, 16, 12), (3, 20, 8, 24), (11, 7, 13, 9)
STEM = "images/ADE/training/urban/street/ADE_train_00000001"


def thing(id, number, name, level=0, part_of=None, **more):
  wholes = [] if part_of is None else part_of
  parts = {"hasparts": [], "ispartof": wholes, "part_level": level}
  entry = {"id": id, "name_ndx": number, "name": name, "parts": parts}
  return entry | {"occluded": "no", "crop": "0", "attributes": []} | more


def coded(*places):
  """RGB of a map in which each (category, box) is an instance of its own."""
  rgb_HWC = np.zeros((*SIZE, 3), np.uint8)
  for k, (category, place) in enumerate(places, start=1):
    mask_HW = box(*SIZE, *place) > 0
    rgb_HWC[mask_HW] = (category // 256 * 10, category % 256, 5 * k)
  return rgb_HWC


def write_ade20k_full(root):
  """Returns the parsed annotation and where it lies."""
  stem = root / "ADE20K_2021_17_01" / STEM
  write_photo(stem.with_suffix(".jpg"), *SIZE)
  objects = [
    thing(0, CAR, "car, auto, automobile"),
    thing(1, BUILDING, "building, edifice"),
    thing(2, DOOR, "door", 1, 0, raw_name="Tür"),
    thing(3, DOOR, "door", 1, [1]),
    thing(4, HANDLE, "handle, grip", 2, 2),
  ]
  document = {"annotation": {"filename": f"{stem.name}.jpg", "object": objects}}
  path = stem.with_suffix(".json")
  path.write_bytes(json.dumps(document, ensure_ascii=False).encode("latin-1"))
  levels = {
    "seg": coded((BUILDING, FACADE), (CAR, CAR_BOX)),
    "parts_1": coded((DOOR, CAR_DOOR), (DOOR, HOUSE_DOOR)),
    "parts_2": coded((HANDLE, GRIP)),
  }
  for name, rgb_HWC in levels.items():
    Image.fromarray(rgb_HWC).save(stem.with_name(f"{stem.name}_{name}.png"))
  return document, path
