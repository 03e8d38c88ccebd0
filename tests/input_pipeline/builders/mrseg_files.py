"""MRSeg as published: lists of rounds, and the annotations that they point into."""

import numpy as np
from PIL import Image

from input_pipeline import mask_ops
from tests.input_pipeline.builders.in_memory import (
  box,
  polygon_of,
  write_json,
  write_photo,
)
from tests.input_pipeline.builders.reasonseg_files import BIG, annotation, shape

HEIGHT, WIDTH = 24, 32
MAN, CUP, HAND = (2, 3, 20, 12), (5, 15, 12, 24), (8, 10, 11, 14)
COCO = "coco/train2014/COCO_train2014_000000000009.jpg"


def human(text, ind=None):
  turn = {"from": "human", "value": text}
  return turn if ind is None else turn | {"ind": ind}


def gpt(text):
  return {"from": "gpt", "value": text}


def first(path, text="Segment a person."):
  return human(f"[IMAGE256:{path}] {text}")


def pointed(path, dataset, *numbers):
  """The tags of a question that refers to earlier masks."""
  return "".join(
    f"[MASK-ENCODE:{path}|{dataset}|{n}][BOX-ENCODE:{path}|{dataset}|{n}]"
    for n in numbers
  )


def item(*turns):
  return {"task": "segmentation", "base": "[null]", "conversations": list(turns)}


THREE_ROUNDS = item(
  first(COCO),
  gpt(f"[MASK-DECODE:none:none:11:{COCO}:refcoco]."),
  human(f"{pointed(COCO, 'refcoco', 11)} Segment the cup beside instance 1.", 1),
  gpt(f"[MASK-DECODE:relational:11:12:{COCO}:refcoco]."),
  human(f"{pointed(COCO, 'refcoco', 11, 12)} Segment what joins them.", [1, 2]),
  gpt(f"Sure, [MASK-DECODE:relational:11:12:13:{COCO}:refcoco]."),
)
OLD_PATH = "coco/val2014/COCO_train2014_000000000009.jpg"
VG = "VG_100K/17.jpg"
ADE = "ade20k/images/training/ADE_train_00000001.jpg"
REASON = "reason_seg/images/train/1_a.jpg"


def one_round(path, dataset, number):
  return item(first(path), gpt(f"[MASK-DECODE:{path}|{dataset}|{number}]"))


LISTS = {
  "mr_refcoco_train": [THREE_ROUNDS, one_round(OLD_PATH, "refcoco", 11)],
  "all_data_mix/mr_vg_train": [one_round(VG, "visual_genome", "17_3")],
  "mr_paco_val": [one_round(COCO, "paco_lvis", 5)],
  "ade20k_train": [one_round(ADE, "ade20k", 4)],
  "reason_seg_train": [one_round(REASON, "reason_seg", "'")],
}


def coco_list(**masks):
  return {
    "images": [],
    "categories": [
      {"id": 1, "name": "person"},
      {"id": 2, "name": "mug:handle"},
    ],
    "annotations": [
      {"id": int(n), "image_id": 9, "category_id": c, "segmentation": s}
      for n, (c, s) in masks.items()
    ],
  }


def write_mrseg(root, lists=LISTS):
  for name, items in lists.items():
    write_json(root / f"conversations_folder/{name}.json", items)
  labels = root / "annotations_folder"
  refcoco = {
    "11": (1, [polygon_of(*MAN)]),
    "12": (2, [polygon_of(*CUP)]),
    "13": (7, [polygon_of(*HAND)]),
    "14": (1, []),
  }
  write_json(labels / "refcoco/instances.json", coco_list(**refcoco))
  paco = "paco_lvis/annotations/paco_lvis_v1"
  for split, part in (("train", MAN), ("val", CUP)):
    rle = mask_ops.encode_rle(box(HEIGHT, WIDTH, *part))
    write_json(labels / f"{paco}_{split}.json", coco_list(**{"5": (2, rle)}))
  vg = {"17_3": mask_ops.encode_rle(box(HEIGHT, WIDTH, *HAND)), "other": {}}
  write_json(labels / "visual_genome/vg_masks_train_new.json", vg)
  write_json(
    labels / "reason_seg/annotations/train/1_a.json", annotation(shape("target", BIG))
  )
  path = labels / "ade20k/annotations/training/ADE_train_00000001.png"
  path.parent.mkdir(parents=True)
  Image.fromarray(box(HEIGHT, WIDTH, *CUP) * np.uint8(5)).save(path)
  for name in (COCO, f"vg/{VG}", ADE, REASON):
    write_photo(root / "images_folder" / name, HEIGHT, WIDTH)
  return root
