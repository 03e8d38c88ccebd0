"""Visual Genome: region phrases with the masks of MIRAS's list, and not without."""

import numpy as np
import pytest
from PIL import Image

from input_pipeline.builders import registry
from miras_jax.errors import UserError
from tests.input_pipeline.builders import list_files
from tests.input_pipeline.builders.in_memory import (
  build_in_memory,
  masks,
  reasons,
  write_json,
)


def built(root):
  return build_in_memory(registry.make("vg"), root, "train")


def test_a_region_has_its_phrase_and_its_mask(tmp_path):
  _, expected = list_files.write_visual_genome(tmp_path)
  records, errors = built(tmp_path)
  assert errors == []
  assert [(r.id, r.targets[0][0]) for r in records] == [
    ("train/0", "the red door"),
    ("train/1", "a man on a bike"),
    ("train/2", "the red door"),
  ]
  for record, mask_HW in zip(records, expected, strict=True):
    np.testing.assert_array_equal(masks(record)[0], mask_HW)


def test_a_picture_of_coco_has_its_id_of_coco(tmp_path):
  list_files.write_visual_genome(tmp_path)
  ids = [r.image_id for r in built(tmp_path)[0]]
  assert ids == ["coco/000000000139", "coco/000000000139", "vg/61"]
  (tmp_path / "image_data.json").unlink()
  assert built(tmp_path)[0][0].image_id == "vg/2345"


def test_each_bad_region_is_named(tmp_path):
  entries, _ = list_files.write_visual_genome(tmp_path)
  grey = np.full(list_files.SIZE, 128, np.uint8)
  for name, mask_HW in (("grey", grey), ("none", grey * 0), ("small", grey[1:])):
    Image.fromarray(mask_HW).save(tmp_path / f"VG/masks/{name}.png")
  first = entries[0]
  bad = [
    *(first | {"mask": f"/x/masks/{n}.png"} for n in ("grey", "none", "small", "gone")),
    first | {"caption": " "},
    first | {"image_path": "../../etc/passwd"},
    {"image_path": first["image_path"]},
  ]
  write_json(tmp_path / "VG/train_new.json", entries + bad)
  records, errors = built(tmp_path)
  assert len(records) == 3
  found = reasons(errors)
  assert sorted(found) == list(range(3, 10))
  assert found[3] == "VG/masks/grey.png: holds the values [128], want 0 and 255 alone"
  assert found[4] == "VG/masks/none.png: is empty"
  assert "is 30x19 pixels, its photograph 30x20" in found[5]
  assert "mask '/x/masks/gone.png': no end of that path is a file" in found[6]
  assert found[7] == "caption is empty"
  assert "leaves its folder" in found[8]
  assert found[9] == "has no 'mask'"


def test_boxes_without_masks_are_refused_with_the_reason(tmp_path):
  region = {"region_id": 1, "image_id": 1, "phrase": "a door", "x": 0, "y": 0}
  regions = [{"id": 1, "regions": [region | {"width": 5, "height": 0}]}]
  write_json(tmp_path / "region_descriptions.json", regions)
  with pytest.raises(UserError, match="holds boxes and no masks"):
    built(tmp_path)
