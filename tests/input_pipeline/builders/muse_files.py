"""MUSE and MMR as published, a few items each."""

from input_pipeline import mask_ops
from tests.input_pipeline.builders.in_memory import (
  box,
  polygon_of,
  write_json,
  write_photo,
)

HEIGHT, WIDTH = 30, 40
DOG, CAT, TAIL = (2, 3, 12, 15), (10, 18, 26, 36), (4, 5, 8, 9)
URL = "http://images.cocodataset.org/train2017/000000000025.jpg"


def target(part, name, **more):
  return {
    "segmentation": [polygon_of(*part)],
    "bbox": [0, 0, 1, 1],
    "category_id": 3,
    "category_name": name,
  } | more


DOG_TARGET = target(DOG, "dog", rephrased_name="the running dog")
CAT_TARGET = target(CAT, "cat_(animal)")


def item(questions, answers, texts=(), **changes):
  made = {
    "file_name": "COCO_train2014_000000000009.jpg",
    "height": HEIGHT,
    "width": WIDTH,
    "ann_list": [DOG_TARGET, CAT_TARGET],
    "questions": questions,
    "answers": answers,
  }
  return made | ({"text_answers": texts} if texts != () else {}) | changes


ITEMS = [
  item(
    ["Who could chase whom?", "Which animal purrs?"],
    [[DOG_TARGET, CAT_TARGET], [CAT_TARGET]],
    ["The dog {seg} could chase the cat {seg}.", None],
  ),
  item(["What are they?"], [[CAT_TARGET, DOG_TARGET, CAT_TARGET]]),
  item(["Where is it?"], [[DOG_TARGET]], ["Here {seg}."], file_name=None, coco_url=URL),
]


def write_muse(root, items=ITEMS, *, pictures="refer_seg/images/mscoco/images"):
  write_json(root / "muse/muse_train.json", items)
  write_json(root / "muse/muse_test_less.json", items[:1])
  folder = root / pictures
  write_photo(folder / "train2014/COCO_train2014_000000000009.jpg", HEIGHT, WIDTH)
  write_photo(folder / "train2017/000000000025.jpg", HEIGHT, WIDTH, seed=1)
  return root


def write_mmr(root):
  def part(where, name):
    return {
      "segmentation": mask_ops.encode_rle(box(HEIGHT, WIDTH, *where)),
      "image_id": 25,
      "category_name": name,
      "category_id": 7,
      "sorted_category_id": 1,
    }

  both = [part(DOG, "dog"), part(TAIL, "dog:tail")]
  made = {
    "file_name": "train2017/000000000025.jpg",
    "height": HEIGHT,
    "width": WIDTH,
    "image_id": 25,
    "coco_url": URL,
    "neg_category_ids": [],
    "not_exhaustive_category_ids": [],
    "questions": ["What wags what?"],
    "annotations": both,
    "answers": [both],
    "text_answers": ["The dog {seg} wags its tail {seg}."],
    "raw_answers": ["The dog wags its tail."],
  }
  write_json(root / "MMR_test_mixed.json", [made])
  write_photo(root / "coco/train2017/000000000025.jpg", HEIGHT, WIDTH)
  return root
