"""PASCAL-Part, PACO-LVIS, COCO and Visual Genome in their published forms, tiny.

Two pictures each, `SIZE`, with the traps of each form once.
"""

import numpy as np
from PIL import Image

from input_pipeline import mask_ops
from tests.input_pipeline.builders.in_memory import (
  box,
  polygon_of,
  write_json,
  write_photo,
)

SIZE = 20, 30
HEAD, EAR, OTHER_EAR = (2, 3, 9, 11), (2, 3, 4, 5), (2, 9, 4, 11)


def rle(*place):
  return mask_ops.encode_rle(box(*SIZE, *place))


def annotation(i, number, category, segmentation, **more):
  entry = {"id": i, "image_id": number, "category_id": category, "bbox": [1, 2, 3, 4]}
  return entry | {"area": 12.0, "iscrowd": 0, "segmentation": segmentation} | more


def image(number, file_name):
  return {"id": number, "file_name": file_name, "height": SIZE[0], "width": SIZE[1]}


def write_pascal_part(root):
  """Two ears of one name, a head; a picture without parts is absent from the list."""
  base = root / "vlpart/pascal_part"
  names = ("2008_000002", "2010_006086", "2009_000001")
  for seed, name in enumerate(names):
    write_photo(base / f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg", *SIZE, seed=seed)
  content = {
    "categories": [{"id": 7, "name": "dog:ear"}, {"id": 93, "name": "dog:head"}],
    "images": [image(int(n.replace("_", "")), f"{n}.jpg") for n in names[:2]],
    "annotations": [
      annotation(0, 2008000002, 7, rle(*EAR)),
      annotation(1, 2010006086, 93, rle(0, 0, 5, 5)),
      annotation(2, 2008000002, 93, rle(*HEAD)),
      annotation(3, 2008000002, 7, rle(*OTHER_EAR)),
    ],
  }
  write_json(base / "train.json", content)
  write_json(base / "val.json", content | {"annotations": content["annotations"][:1]})
  return root, base / "train.json", content


def write_paco(root):
  """An object, its part, a name with an underscore; both folders of COCO in a split."""
  files = ("train2017/000000000009.jpg", "val2017/000000000139.jpg")
  for seed, name in enumerate(files):
    write_photo(root / "coco" / name, *SIZE, seed=seed)
  content = {
    "categories": [
      {"id": 207, "name": "car_(automobile)", "supercategory": "OBJECT"},
      {"id": 1133, "name": "trash_can", "supercategory": "OBJECT"},
      {"id": 2000, "name": "car_(automobile):antenna", "supercategory": "PART"},
    ],
    "images": [
      image(number, name) | {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
      for number, name in zip((9, 139), files, strict=True)
    ],
    "annotations": [
      annotation(10, 9, 207, rle(0, 0, 10, 10), obj_ann_id=10, attribute_ids=[1]),
      annotation(11, 9, 2000, rle(1, 1, 3, 3), obj_ann_id=10),
      annotation(12, 139, 1133, rle(4, 4, 9, 9), obj_ann_id=12),
    ],
  }
  for split in ("train", "test"):
    write_json(root / f"vlpart/paco/annotations/paco_lvis_v1_{split}.json", content)
  return root


def write_coco_instances(root, year="2017"):
  """Two dogs, one of two polygons; a crowd of people with uncompressed RLE."""
  prefix = "" if year == "2017" else "COCO_train2014_"
  files = [f"{prefix}{number:012d}.jpg" for number in (9, 25, 30)]
  for seed, name in enumerate(files):
    write_photo(root / f"coco/train{year}/{name}", *SIZE, seed=seed)
  crowd_HW = box(*SIZE, 10, 10, 15, 20)
  runs = np.diff(np.flatnonzero(np.diff(crowd_HW.T.ravel(), prepend=0)), prepend=0)
  runs = [int(n) for n in runs]
  crowd = {"size": list(SIZE), "counts": [*runs, crowd_HW.size - sum(runs)]}
  content = {
    "info": {"year": int(year)},
    "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    "images": [
      image(n, name) | {"license": 3}
      for n, name in zip((9, 25, 30), files, strict=True)
    ],
    "annotations": [
      annotation(1, 9, 18, [polygon_of(1, 1, 4, 4), polygon_of(6, 6, 9, 9)]),
      annotation(2, 9, 1, crowd, iscrowd=1),
      annotation(3, 9, 18, [polygon_of(0, 20, 5, 25)]),
      annotation(4, 25, 1, [polygon_of(0, 0, 20, 30)]),
    ],
  }
  write_json(root / f"coco/annotations/instances_train{year}.json", content)
  return root, crowd_HW


def write_coco_captions(root, captions):
  """(number, caption) pairs about pictures 9 and 25 of val2017."""
  for seed, number in enumerate((9, 25)):
    mode = "L" if seed else "RGB"
    write_photo(root / f"coco/val2017/{number:012d}.jpg", *SIZE, seed=seed, mode=mode)
  content = {
    "images": [image(n, f"{n:012d}.jpg") for n in (9, 25)],
    "annotations": [
      {"id": 100 + i, "image_id": number, "caption": caption}
      for i, (number, caption) in enumerate(captions)
    ],
  }
  write_json(root / "coco/annotations/captions_val2017.json", content)
  return root


def write_visual_genome(root):
  """Paths of somebody else's machine; two regions of one picture, one of another."""
  home = "/mnt/data/somebody/VG"
  write_photo(root / "VG/images/VG_100K/2345.jpg", *SIZE)
  write_photo(root / "VG/images/VG_100K_2/61.jpg", *SIZE, seed=1, mode="L")
  places = ((1, 1, 5, 5), (3, 4, 9, 20), (0, 0, 4, 4))
  for i, place in enumerate(places):
    path = root / f"VG/masks/{i}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(box(*SIZE, *place) * 255).save(path)
  pictures = ("VG_100K/2345.jpg", "VG_100K/2345.jpg", "VG_100K_2/61.jpg")
  captions = ("The Red door", "A man on a bike", "the red door")
  entries = [
    {
      "image_path": f"{home}/images/{picture}",
      "mask": f"{home}/masks/{i}.png",
      "caption": caption,
    }
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True))
  ]
  write_json(root / "VG/train_new.json", entries)
  coco = [{"image_id": 2345, "coco_id": 139}, {"image_id": 61, "coco_id": None}]
  write_json(root / "image_data.json", coco)
  return entries, [box(*SIZE, *place) for place in places]
