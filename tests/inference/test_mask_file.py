"""A user's mask from a file: every form, and one line for what is none."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from input_pipeline.mask_ops import encode_rle
from miras_jax.errors import UserError
from miras_jax.inference import mask_file

MASK = np.zeros((6, 8), np.uint8)
MASK[1:4, 2:6] = 1


def labelme(width=8):
  shape = {"label": "cup", "points": [[2, 1], [6, 1], [6, 4], [2, 4]]}
  shape |= {"shape_type": "polygon", "group_id": None, "flags": {}}
  sides = {"imageHeight": 6, "imageWidth": width}
  return {"version": "5", "flags": {}, "shapes": [shape], "imagePath": "a"} | sides


def png(mask_HW):
  stream = io.BytesIO()
  Image.fromarray(255 * mask_HW).save(stream, "PNG")
  return stream.getvalue()


def with_another(**fields):
  """A file whose second shape is the first one with other fields."""
  document = labelme()
  document["shapes"] = [document["shapes"][0], document["shapes"][0] | fields]
  return json.dumps(document).encode()


def outside():
  """A file whose one shape lies beside the picture."""
  document = labelme()
  document["shapes"][0]["points"] = [[20, 10], [30, 10], [30, 20]]
  return json.dumps(document).encode()


def test_png_and_coco_rle_give_the_mask(tmp_path):
  Image.fromarray(255 * MASK).save(tmp_path / "a.png")
  rle = encode_rle(MASK)
  (tmp_path / "a.json").write_text(json.dumps(rle))
  for name in ("a.png", "a.json"):
    found = mask_file.read(tmp_path / name, (6, 8)).mask_HW
    np.testing.assert_array_equal(found, MASK > 0)


@pytest.mark.parametrize(
  "values, labels",
  [([1], ("value 1",)), ([3, 1], ("value 1", "value 3")),
   (range(1, 9), (*(f"value {v}" for v in range(1, 6)), "3 more"))],
)  # fmt: skip
def test_of_a_label_map_all_values_are_taken_and_named(tmp_path, values, labels):
  map_HW = np.zeros((6, 8), np.uint8)
  map_HW[0, : len(values)] = values
  Image.fromarray(map_HW).save(tmp_path / "a.png")
  found = mask_file.read(tmp_path / "a.png", (6, 8))
  np.testing.assert_array_equal(found.mask_HW, map_HW > 0)
  assert found.labels == labels


def test_of_labelme_all_shapes_are_taken_and_named(tmp_path):
  more = with_another(label="plate", points=[[6, 4], [8, 4], [8, 6], [6, 6]])
  (tmp_path / "a.json").write_bytes(more)
  found, labels = mask_file.read(tmp_path / "a.json", (6, 8))
  assert found[2, 3] and found[5, 7] and not found[5, 1]
  assert labels == ("cup", "plate")


@pytest.mark.parametrize(
  "segmentation", [encode_rle(MASK), [[2, 1, 6, 1, 6, 4, 2, 4]]], ids=["rle", "polygon"]
)
def test_of_a_coco_annotation_its_segmentation_is_the_mask(tmp_path, segmentation):
  annotation = {"id": 1, "category_id": 3, "segmentation": segmentation}
  (tmp_path / "a.json").write_text(json.dumps(annotation))
  found = mask_file.read(tmp_path / "a.json", (6, 8)).mask_HW
  np.testing.assert_array_equal(found, MASK > 0)


@pytest.mark.parametrize(
  "name, data, reason",
  [
    ("b.png", png(np.ones((60, 80), np.uint8)), "80x60 pixels, the image is 8x6"),
    ("b.json", json.dumps(encode_rle(np.ones((60, 80)))).encode(), "80x60 pixels"),
    ("b.json", b'{"segmentation": [[1, 1, 2]]}', "pairs of x and y"),
    ("b.json", b'{"segmentation": null}', "no pixel"),
    ("b.png", b"no picture", "not an image"),
    ("b.json", b"{", "b.json"),
    ("b.json", b"[]", "holds a list: want labelme's JSON"),
    ("b.json", b"{}", "is no mask: want labelme's JSON.*COCO"),
    ("b.json", b'{"images": [], "annotations": []}', "whole data set of COCO: want"),
    ("b.json", json.dumps(labelme(width=9)).encode(), "9x6"),
    ("b.json", json.dumps(encode_rle(0 * MASK)).encode(), "no pixel"),
    ("b.json", json.dumps(encode_rle(MASK[:4])).encode(), "8x4"),
    ("b.json", json.dumps(encode_rle(MASK) | {"size": [6.5, 8]}).encode(), "size"),
    ("b.json", json.dumps(encode_rle(MASK) | {"size": ["6", "8"]}).encode(), "size"),
    ("b.json", json.dumps(labelme() | {"shapes": []}).encode(), "no shape"),
    ("b.json", with_another(label=""), "shape 1 has no label: give it one"),
    ("b.json", with_another(shape_type="circle"), r"shape 1 \('cup'\).*take it out"),
    ("b.json", outside(), "b.json: no pixel is inside"),
    (
      "b.json",
      with_another(points=[[1, 1], [2, 2]]),
      r"shape 1 \('cup'\).*take it out",
    ),
  ],
)
def test_what_is_no_mask_of_the_image_is_one_line(tmp_path, name, data, reason):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError, match=reason) as caught:
    mask_file.read(tmp_path / name, (6, 8))
  assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
  with pytest.raises(UserError, match="none.png: no such file"):
    mask_file.read(tmp_path / "none.png", (6, 8))
