"""RefCOCO, RefCLEF and gRefCOCO as published, three pictures each.

COCO's pictures 9, 25 and 30; SAIAPR's 2541 and 107. Each trap of the real files once.
"""

import struct

from input_pipeline import mask_ops
from tests.input_pipeline.builders.in_memory import (
  box,
  polygon_of,
  write_json,
  write_photo,
)

HEIGHT, WIDTH = 30, 40
# (top, left, bottom, right) of what is annotated
MAN, LEFT_HALF, RIGHT_HALF = (5, 6, 20, 16), (2, 4, 12, 20), (8, 14, 24, 30)
IMAGES = (9, 25, 30)


def coco_name(number):
  return f"COCO_train2014_{number:012d}.jpg"


def ref(ref_id, ann_id, image_id, split, *sentences, **changes):
  """An entry of refs(...).p; its `file_name` is no file, as in the real ones."""
  made = [
    {"sent_id": 10 * ref_id + i, "sent": s, "raw": s.title(), "tokens": s.split()}
    for i, s in enumerate(sentences)
  ]
  return {
    "ref_id": ref_id,
    "ann_id": ann_id,
    "image_id": image_id,
    "category_id": 1,
    "split": split,
    "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",
    "sent_ids": [s["sent_id"] for s in made],
    "sentences": made,
  } | changes


def instances(annotations, images):
  return {
    "info": {"description": "tiny"},
    "images": images,
    "annotations": [
      {"id": n, "bbox": [0, 0, 1, 1], "area": 1.0, "iscrowd": 0, "category_id": 1} | a
      for n, a in annotations.items()
    ],
    "categories": [
      {"id": 1, "name": "person", "supercategory": "person"},
      {"id": 47, "name": "cup", "supercategory": "kitchen"},
    ],
  }


def coco_images():
  return [
    {"id": n, "file_name": coco_name(n), "height": HEIGHT, "width": WIDTH}
    for n in IMAGES
  ]


COCO_LABELS = {
  101: {"image_id": 9, "segmentation": [polygon_of(*MAN)]},
  102: {
    "image_id": 9,
    "segmentation": [polygon_of(*LEFT_HALF), polygon_of(*RIGHT_HALF)],
    "category_id": 47,
  },
  103: {"image_id": 25, "segmentation": []},
  104: {"image_id": 30, "segmentation": [polygon_of(*MAN)]},
  105: {"image_id": 25, "segmentation": [[1, 2, 3]]},
  106: {
    "image_id": 9,
    "iscrowd": 1,
    "segmentation": {"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]},
  },
}
REFS = [
  ref(0, 101, 9, "train", "man in red", "left man", "left man"),
  ref(1, 104, 30, "val", "the man"),
  ref(2, 102, 9, "train", "cup behind [SEG] the {post}"),
  ref(3, 103, 25, "testA", "a man that nobody drew"),
  ref(4, 104, 30, "testB", "man"),
]


def write_pictures(root, below="images/mscoco/images/train2014"):
  for number in IMAGES:
    write_photo(
      root / below / coco_name(number),
      HEIGHT,
      WIDTH,
      seed=number,
      mode="L" if number == 25 else "RGB",
    )


def write_refcoco(root, refs=REFS, *, name="refcoco", split_by="unc", form="p"):
  """The folder `refer_seg`; form: "p" as Python 2 pickled it, or "json"."""
  file = root / name / f"refs({split_by}).{form}"
  write_json(root / name / "instances.json", instances(COCO_LABELS, coco_images()))
  if form == "p":
    file.write_bytes(python_2_pickle(refs))
  else:
    write_json(file, refs)
  write_pictures(root)
  return root.parent if root.name == "refer_seg" else root


def write_refclef(root):
  """RefCLEF: RLE with counts as text, splits that are unions, a picture missing."""
  rle = mask_ops.encode_rle(box(HEIGHT, WIDTH, *MAN))
  other = mask_ops.encode_rle(box(HEIGHT, WIDTH, *RIGHT_HALF))
  labels = {
    1: {"image_id": 2541, "segmentation": [rle, other]},
    2: {"image_id": 107, "segmentation": [rle]},
  }
  images = [
    {"id": n, "file_name": f"{d}/images/{n}.jpg", "height": HEIGHT, "width": WIDTH}
    for d, n in (("02", 2541), ("00", 107))
  ]
  refs = [
    ref(0, 1, 2541, "testAB", "sky"),
    ref(1, 1, 2541, "train", "all of it"),
    ref(2, 1, 2541, "testC", "trees"),
    ref(3, 2, 107, "train", "gone"),
  ]
  write_json(root / "refclef/instances.json", instances(labels, images))
  (root / "refclef/refs(unc).p").write_bytes(python_2_pickle(refs))
  write_photo(root / "images/saiapr_tc-12/02/images/2541.jpg", HEIGHT, WIDTH)
  return root


def write_grefcoco(root, refs=None):
  refs = refs or [
    ref(0, [101, 102], 9, "train", "both of them", "all the things"),
    ref(1, 101, 9, "train", "the man"),
    ref(2, [-1], 9, "train", "a dog", category_id=[-1]),
    ref(3, [101, 106], 9, "train", "people"),
    ref(4, [106], 9, "train", "the crowd"),
    ref(5, [104], 30, "testA", "man"),
  ]
  write_json(root / "grefcoco/instances.json", instances(COCO_LABELS, coco_images()))
  write_json(root / "grefcoco/grefs(unc).json", refs)
  write_pictures(root, "images/mscoco/train2014")
  return root


def python_2_pickle(value):
  """What Python 2's cPickle writes at protocol 2: byte strings, 32-bit numbers."""
  return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value):
  if isinstance(value, str):
    data = value.encode("latin-1")
    return b"U" + bytes([len(data)]) + data + b"q\x01"
  if isinstance(value, int):
    return b"J" + struct.pack("<i", value)
  if isinstance(value, list):
    return b"]q\x02(" + b"".join(map(_opcodes, value)) + b"e"
  items = b"".join(_opcodes(part) for pair in value.items() for part in pair)
  return b"}q\x03(" + items + b"u"
