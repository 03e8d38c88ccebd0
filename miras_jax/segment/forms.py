"""Results in the forms of other tools, written from predictions.jsonl.

  coco     coco_instances.json, a data set that labelling tools import, with scores;
           coco_results.json, the list that COCO's own evaluation reads. A category is
           the name an answer gives before its [SEG], "object" without one; an image is
           numbered by its place in coco_instances.json.
  labelme  labelme/ID.json, a conversation each, one shape of type "mask" a mask
  png      png/ID_turn_01_mask_1.png, white inside

H W image rows and columns.
"""

import base64
import hashlib
import json
import os
import pathlib
import urllib.parse

import numpy as np

from input_pipeline import mask_ops
from input_pipeline.records import OBJ_TOKEN, SEG_TOKEN
from miras_jax import drawing
from miras_jax.checkpoint import workdir
from miras_jax.segment import results

OBJECT = "object"  # the name of what an answer does not name
MAX_STEM = 120  # characters of a file's name that an id may take
LABELME_VERSION = "5.5.0"  # of labelme's files, whose shapes may be of type "mask"


def coco(predictions, out, images_dir):
  """Two JSON files, written annotation by annotation."""
  images, categories = {}, {}
  for line in results.read_lines(predictions):
    images.setdefault(line["image"], (len(images) + 1, line["size"]))
    for turn in line["turns"]:
      for mask in turn["masks"]:
        categories.setdefault(name_of(turn, mask), len(categories) + 1)
  numbers = {name: number for name, (number, _) in images.items()}
  head = {
    "images": [
      {"id": number, "file_name": name, "height": size[0], "width": size[1]}
      for name, (number, size) in images.items()
    ],
    "categories": [{"id": n, "name": name} for name, n in categories.items()],
  }
  _write_list(
    out / "coco_instances.json",
    json.dumps(head)[:-1] + ', "annotations": [',
    _annotations(predictions, numbers, categories),
    "]}",
  )
  short = ("image_id", "category_id", "segmentation", "score")
  found = _annotations(predictions, numbers, categories)
  rows = ({key: row[key] for key in short} for row in found)
  _write_list(out / "coco_results.json", "[", rows, "]")


def labelme(predictions, out, images_dir):
  folder = out / "labelme"
  folder.mkdir(exist_ok=True)
  for line in results.read_lines(predictions):
    image = os.path.relpath(os.path.join(images_dir, line["image"]), folder)
    height, width = line["size"]
    document = {
      "version": LABELME_VERSION,
      "flags": {},
      "shapes": [shape for item in _masks(line) for shape in _shapes(*item)],
      "imagePath": image,
      "imageData": None,
      "imageHeight": height,
      "imageWidth": width,
    }
    text = json.dumps(document, indent=1) + "\n"
    workdir.write_atomically(folder / f"{stem(line['id'])}.json", text)


def png(predictions, out, images_dir):
  folder = out / "png"
  folder.mkdir(exist_ok=True)
  for line in results.read_lines(predictions):
    for number, _, k, mask in _masks(line):
      path = folder / f"{stem(line['id'])}_turn_{number:02d}_mask_{k}.png"
      drawing.save_mask(path, mask_ops.decode_rle(mask["rle"]))


WRITERS = {"coco": coco, "labelme": labelme, "png": png}


def write(names, predictions, out, images_dir) -> None:
  """Writes each named form of the results into the folder `out`."""
  for name in names:
    WRITERS[name](predictions, pathlib.Path(out), images_dir)


def stem(record_id) -> str:
  """A file's name for an id: letters, digits and `_.-~` as they are, others as %XX.

  Different ids have different names; a name never leaves its folder.
  """
  name = urllib.parse.quote(record_id, safe="")
  name = "%2E" + name[1:] if name.startswith(".") else name
  if len(name) <= MAX_STEM:
    return name
  return f"{name[:MAX_STEM]}~{hashlib.sha256(record_id.encode()).hexdigest()[:16]}"


def name_of(turn, mask) -> str:
  """How the answer calls what a mask shows."""
  start, end = mask["span"]
  words = turn["answer"][start:end]
  return words.removeprefix(OBJ_TOKEN).removesuffix(SEG_TOKEN).strip() or OBJECT


def _masks(line):
  """(number of the turn, turn, number of the mask, mask), numbers from 1."""
  for number, turn in enumerate(line["turns"], 1):
    for k, mask in enumerate(turn["masks"], 1):
      yield number, turn, k, mask


def _annotations(predictions, numbers, categories):
  count = 0
  for line in results.read_lines(predictions):
    for number, turn, _, mask in _masks(line):
      count += 1
      yield {
        "id": count,
        "image_id": numbers[line["image"]],
        "category_id": categories[name_of(turn, mask)],
        "segmentation": mask["rle"],
        "area": mask_ops.rle_area(mask["rle"]),
        "bbox": _box(mask_ops.decode_rle(mask["rle"])),
        "iscrowd": 0,
        "score": mask["score"],
        "conversation": line["id"],
        "turn": number,
      }


def _box(mask_HW):
  """[x, y, width, height], zeros where no pixel is inside."""
  rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
  if not len(rows):
    return [0, 0, 0, 0]
  x, y = int(columns[0]), int(rows[0])
  return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def _shapes(number, turn, k, mask):
  """A labelme shape; none of an empty mask, which has no box."""
  mask_HW = mask_ops.decode_rle(mask["rle"]).astype(bool)
  x, y, width, height = _box(mask_HW)
  if not width:
    return
  part = mask_HW[y : y + height, x : x + width].astype(np.uint8) * 255
  yield {
    "label": name_of(turn, mask),
    "points": [[x, y], [x + width - 1, y + height - 1]],
    "group_id": None,
    "description": f"turn {number}, mask {k}: {turn['user']}",
    "shape_type": "mask",
    "flags": {},
    "mask": base64.b64encode(drawing.encode(part)).decode(),
  }


def _write_list(path, head, rows, tail):
  """A JSON file written row by row; it is there when it is whole."""
  temporary = path.with_name(path.name + ".tmp")
  with open(temporary, "w", encoding="utf-8") as file:
    file.write(head)
    for i, row in enumerate(rows):
      file.write(("," if i else "") + "\n" + json.dumps(row))
    file.write(tail + "\n")
  os.replace(temporary, path)
