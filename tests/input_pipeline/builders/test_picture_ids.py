"""One picture has one id, whatever a source calls its file."""

import pytest

from input_pipeline.builders import picture_ids
from input_pipeline.builders.folder import SourceFolder
from tests.input_pipeline.builders.in_memory import write_json


@pytest.mark.parametrize(
  "path",
  [
    "coco/train2017/000000581857.jpg",
    "train2017/000000581857.jpg",
    "val2014/COCO_val2014_000000581857.jpg",
    "refer_seg/images/mscoco/images/train2014/COCO_train2014_000000581857.jpg",
    "allava_vflan/images/images_191task_1k/VQA+x_COCO_train2014_000000581857.png",
  ],
)
def test_coco_is_known_by_number(path):
  assert picture_ids.of_path(path) == picture_ids.coco(581857) == "coco/000000581857"


@pytest.mark.parametrize(
  "path, expected",
  [
    ("vg/VG_100K/2345.jpg", "vg/2345"),
    ("vg/VG_100K_2/2345.jpg", "vg/2345"),
    ("gqa/images/2345.jpg", "vg/2345"),
    ("gqa/images/n123.jpg", "gqa/images/n123"),
    ("sam/images/sa_12.jpg", "sam/sa_12"),
    ("textvqa/train_images/0ab.jpg", "openimages/0ab"),
    ("share_textvqa/images/0ab.jpg", "openimages/0ab"),
    ("ocr_vqa/images/019358.jpg", "ocr_vqa/019358"),
    ("web-celebrity/images/a b.c.jpg", "web-celebrity/images/a b.c"),
    (
      "llava/llava_pretrain/images/0045/004.jpg",
      "llava/llava_pretrain/images/0045/004",
    ),
    ("x/images/000000581857.jpg", "x/images/000000581857"),
  ],
)
def test_other_pictures_are_known_by_source_and_name(path, expected):
  assert picture_ids.of_path(path) == expected


def test_visual_genome_says_which_pictures_are_cocos(tmp_path):
  entries = [
    {"image_id": 1, "coco_id": 9},
    {"id": 2, "coco_id": 25},
    {"image_id": 3, "coco_id": None},
    "no object",
  ]
  write_json(tmp_path / "image_data.json", entries)
  numbers = picture_ids.read_coco_numbers(SourceFolder(tmp_path), "image_data.json")
  assert numbers == {1: 9, 2: 25}
  assert picture_ids.of_path("gqa/images/2.jpg", numbers) == "coco/000000000025"
