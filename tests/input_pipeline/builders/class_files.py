"""ADE20K, COCO-Stuff and Mapillary Vistas in their published forms, tiny."""

import numpy as np
from PIL import Image

from tests.input_pipeline.builders.in_memory import write_json, write_photo

SIZE = 12, 16
ADE_NAMES = ["wall", "building", "sky", *(f"class {i}" for i in range(4, 151))]
# Of 182 names: ids 1 and 2, one with a hyphen, the last one; 12 never occurs.
STUFF_NAMES = {1: "person", 2: "bicycle", 12: "street sign"}
STUFF_NAMES |= {171: "wall-brick", 182: "wood"}
LABELS_V2 = (
  ("construction--barrier--curb", "Curb"),
  ("human--person--individual", "Person"),
  ("object--sign--front", "Traffic Sign"),
  ("object--sign--back", "Traffic Sign"),
  ("void--ego-vehicle", "Ego Vehicle"),
  ("void--unlabeled", "Unlabeled"),
)
LABELS_V1 = (("nature--sky", "Sky"), ("void--unlabeled", "Unlabeled"))


def halves(left, right, size=SIZE):
  """map_HW with one value on the left and one on the right."""
  map_HW = np.full(size, right, np.uint8)
  map_HW[:, : size[1] // 2] = left
  return map_HW


def write_map(path, map_HW, *, palette=False):
  """An index PNG; a palette changes what is shown, not the values."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(map_HW)
  if palette:
    image.putpalette([k * 7 % 256 for k in range(768)])
  image.save(path, "PNG")


def write_ade20k(root, *, table=False):
  """Two pictures of training, one of validation; `table`: names as in the release."""
  base = root / "ade20k"
  if table:
    lines = [
      f"{i}\t0.1\t10\t1\t{name}, other word"
      for i, name in enumerate(ADE_NAMES, start=1)
    ]
    base.mkdir(parents=True)
    text = "\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines])
    (base / "objectInfo150.txt").write_text(text)
  else:
    write_json(base / "ade20k_classes.json", ADE_NAMES)
  _ade_picture(base, "training/ADE_train_00000001", halves(1, 0))
  _ade_picture(base, "training/ADE_train_00000002", halves(150, 2), mode="L")
  _ade_picture(base, "validation/ADE_val_00000001", halves(3, 3))
  return root


def _ade_picture(base, name, map_HW, **options):
  write_photo(base / f"images/{name}.jpg", *map_HW.shape, **options)
  write_map(base / f"annotations/{name}.png", map_HW)


def write_cocostuff(root):
  """One picture of each split; the value of "person" is 0."""
  names = {i: STUFF_NAMES.get(i, f"stuff {i}") for i in range(1, 183)}
  base = root / "cocostuff"
  base.mkdir(parents=True)
  lines = ["0: unlabeled", *(f"{i}: {name}" for i, name in names.items())]
  (base / "labels.txt").write_text("\n".join(lines) + "\n")
  map_HW = halves(0, 255)
  map_HW[:3, :3], map_HW[:3, -3:] = 181, 170
  for split, number, values in (
    ("train2017", 9, map_HW),
    ("val2017", 139, halves(1, 0)),
  ):
    write_photo(root / f"coco/{split}/{number:012d}.jpg", *SIZE)
    write_map(base / f"{split}/{number:012d}.png", values)
  return root


def write_mapillary(root, *, size=SIZE):
  """One picture, labelled in both versions, with palettes."""
  base = root / "mapillary"
  for version, labels in (("v2.0", LABELS_V2), ("v1.2", LABELS_V1)):
    config = [
      {"name": name, "readable": readable, "color": [1, 2, 3], "evaluate": True}
      for name, readable in labels
    ]
    write_json(base / f"config_{version}.json", {"labels": config})
  map_HW = halves(1, 4, size)
  map_HW[:2], map_HW[-2:, :4], map_HW[-2:, -4:] = 5, 2, 3
  path = base / "training/images/aZ-_1.jpg"
  path.parent.mkdir(parents=True)
  Image.new("RGB", size[::-1], (90, 120, 30)).save(path, "JPEG")
  for version, values in (("v2.0", map_HW), ("v1.2", halves(0, 1, size))):
    path = base / f"training/{version}/labels/aZ-_1.png"
    write_map(path, values, palette=True)
  write_photo(base / "testing/images/unlabelled.jpg", *SIZE)
  return map_HW
