"""Label Studio exports -> regions."""

import cv2
import numpy as np
import pytest

from input_pipeline.annotations import brush_rle
from input_pipeline.annotations.label_studio import LabelStudio
from tests.input_pipeline.annotations.drawn import (
  CAT,
  DOG,
  HAT,
  HEIGHT,
  WIDTH,
  assert_masks,
  defect,
  drawn,
  masks,
  only,
  photo,
  read,
  write_json,
  write_text,
)

SIZE = np.array([WIDTH, HEIGHT])


def percent(points):
  return (np.array(points) / SIZE * 100).tolist()


def result(kind, value, labels=("dog",), **more):
  value = value | {f"{kind}labels": list(labels)}
  return {
    "id": f"r{kind}{len(str(value))}",
    "type": f"{kind}labels",
    "from_name": "label",
    "to_name": "image",
    "original_width": WIDTH,
    "original_height": HEIGHT,
    "image_rotation": 0,
    "value": value,
  } | more


def polygon(points, labels=("dog",), **more):
  return result("polygon", {"points": percent(points), "closed": True}, labels, **more)


def annotation(*results, **more):
  return {"id": 1, "was_cancelled": False, "result": list(results)} | more


def task(*annotations, image="/data/upload/1/0a1b2c3d-a.jpg", **more):
  return {"id": 7, "data": {"image": image}, "annotations": list(annotations)} | more


def make(folder, *tasks):
  photo(folder / "images/a.jpg")
  write_json(folder / "export.json", list(tasks))
  return folder


def packed(mask_HW, sizes=(3, 4, 8, 16)):
  """A brush as Label Studio packs it: RGBA, runs of the four sizes, literals too."""
  values = np.zeros((*mask_HW.shape, 4), np.uint8)
  values[mask_HW != 0] = 255
  values[..., :3] = 7  # a colour that is no part of the mask
  flat = values.reshape(-1).tolist()
  bits = f"{len(flat):032b}{8 - 1:05b}" + "".join(f"{s - 1:04b}" for s in sizes)
  at = 0
  while at < len(flat):
    run = 1
    while at + run < len(flat) and flat[at + run] == flat[at] and run < 2**16:
      run += 1
    literal = run == 1
    count = min(5, len(flat) - at) if literal else run
    index = next(i for i, s in enumerate(sizes) if count <= 2**s)
    bits += f"{int(not literal)}{index:02b}{count - 1:0{sizes[index]}b}"
    words = flat[at : at + count] if literal else flat[at : at + 1]
    bits += "".join(f"{word:08b}" for word in words)
    at += count
  bits += "0" * (-len(bits) % 8) + "0" * 8  # a zero byte may follow
  return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_a_polygon(tmp_path):
  make(tmp_path, task(annotation(polygon(DOG), polygon(CAT, ["cat"]))))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(DOG)), ("cat", drawn(CAT)))


def box(x, y, width, height, rotation=0):
  (px, py), (pw, ph) = percent((x, y)), percent((width, height))
  return {"x": px, "y": py, "width": pw, "height": ph, "rotation": rotation}


def test_a_rectangle(tmp_path):
  make(tmp_path, task(annotation(result("rectangle", box(3, 4, 12, 16)))))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(DOG)))


def test_a_rectangle_is_turned_clockwise_about_its_top_left_corner(tmp_path):
  turned = ((20, 5), (20, 15), (14, 15), (14, 5))  # 10 wide, 6 high, by 90 degrees
  make(tmp_path, task(annotation(result("rectangle", box(20, 5, 10, 6, 90)))))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(turned)))


def test_an_ellipse_has_its_radii_in_percent_of_each_side(tmp_path):
  value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 20, "rotation": 0}
  make(tmp_path, task(annotation(result("ellipse", value))))
  ((_, mask_HW),) = masks(only(LabelStudio(), tmp_path))
  wanted_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
  cv2.ellipse(wanted_HW, (20, 15), (10, 6), 0, 0, 360, 1, -1)
  assert (mask_HW != wanted_HW).mean() < 0.02
  rows, columns = np.nonzero(mask_HW)
  assert (columns.min(), columns.max(), rows.min(), rows.max()) == (10, 30, 9, 21)


def test_an_ellipse_is_turned_about_its_centre(tmp_path):
  value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 20, "rotation": 90}
  make(tmp_path, task(annotation(result("ellipse", value))))
  rows, columns = np.nonzero(masks(only(LabelStudio(), tmp_path))[0][1])
  assert (columns.min(), columns.max(), rows.min(), rows.max()) == (14, 26, 5, 25)


@pytest.mark.parametrize("sizes", [(3, 4, 8, 16), (1, 2, 4, 16)])
def test_a_brush(tmp_path, sizes):
  mask_HW = drawn(DOG) - drawn(HAT) | drawn(CAT)
  value = {"format": "rle", "rle": packed(mask_HW, sizes)}
  make(tmp_path, task(annotation(result("brush", value))))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", mask_HW))


@pytest.mark.parametrize(
  "damage, reason",
  [
    (lambda data: data[:20], "breaks off"),
    (lambda data: [255, 255, 255, 255, *data[4:]], "values, the image has"),
    (lambda data: [*data[:6], 256, *data[7:]], "holds something that is no byte"),
    (lambda data: [], "is no list of bytes"),
    (lambda data: [*data[:8], *[255] * 40], "holds more values than the image"),
  ],
)
def test_a_damaged_brush_is_refused(damage, reason):
  with pytest.raises(ValueError, match=reason):
    brush_rle.decode(damage(packed(drawn(DOG))), HEIGHT, WIDTH)


def test_labels_in_a_result_of_their_own(tmp_path):
  shape = polygon(DOG, id="x", type="polygon")
  del shape["value"]["polygonlabels"]
  label = shape | {"type": "labels", "value": {"labels": ["dog"]}}
  make(tmp_path, task(annotation(shape, label)))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(DOG)))


def test_a_result_of_several_labels_is_a_thing_of_each(tmp_path):
  make(tmp_path, task(annotation(polygon(DOG, ["animal", "dog"]))))
  found = only(LabelStudio(), tmp_path)
  assert_masks(found, ("animal", drawn(DOG)), ("dog", drawn(DOG)))


def test_of_several_annotations_the_latest_that_was_not_cancelled_counts(tmp_path):
  old = annotation(polygon(HAT), created_at="2024-01-01T10:00:00Z")
  new = annotation(polygon(DOG), created_at="2024-03-01T10:00:00Z")
  gone = annotation(polygon(CAT), created_at="2024-04-01T10:00:00Z", was_cancelled=True)
  make(tmp_path, task(new, old, gone))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(DOG)))


def test_ground_truth_counts_before_the_latest(tmp_path):
  old = annotation(polygon(DOG), created_at="2024-01-01", ground_truth=True)
  new = annotation(polygon(HAT), created_at="2024-03-01")
  make(tmp_path, task(old, new))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(DOG)))


def test_predictions_do_not_count(tmp_path):
  make(tmp_path, task(predictions=[annotation(polygon(DOG))]))
  assert defect(LabelStudio(), tmp_path) == (
    "export.json:task 7: is not annotated; predictions do not count"
  )


def test_completions_of_old_versions(tmp_path):
  old = task(annotation(polygon(DOG)))
  old["completions"] = old.pop("annotations")
  make(tmp_path, old)
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(DOG)))


@pytest.mark.parametrize(
  "address",
  [
    "/data/upload/12/0a1b2c3d-a.jpg",
    "/data/local-files/?d=mine/images/a.jpg",
    "/data/local-files/?d=mine%5Cimages%5Ca.jpg",
    "s3://bucket/mine/images/a.jpg",
    "https://example.org/images/a.jpg?token=5",
  ],
)
def test_addresses_of_a_photograph(tmp_path, address):
  make(tmp_path, task(annotation(polygon(DOG)), image=address))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(DOG)))


def test_of_equal_names_the_one_whose_folders_fit(tmp_path):
  make(tmp_path, task(annotation(polygon(DOG)), image="s3://b/two/a.jpg"))
  photo(tmp_path / "two/a.jpg")
  photo(tmp_path / "one/a.jpg")
  photos, _ = read(LabelStudio(), tmp_path)
  assert list(photos) == ["two/a.jpg"]


def test_a_photograph_that_is_not_there_is_named(tmp_path):
  make(tmp_path, task(annotation(polygon(DOG)), image="s3://b/c.jpg"))
  assert defect(LabelStudio(), tmp_path) == (
    "export.json:task 7: data names 's3://b/c.jpg': no such photograph"
  )


def test_a_picture_turned_while_it_was_labelled_is_refused(tmp_path):
  make(tmp_path, task(annotation(polygon(DOG, image_rotation=90))))
  assert "was turned by 90 degrees" in defect(LabelStudio(), tmp_path)


def test_labels_of_another_size_are_refused(tmp_path):
  make(tmp_path, task(annotation(polygon(DOG, original_width=41, id="x"))))
  assert defect(LabelStudio(), tmp_path) == (
    "export.json:task 7: result x: is for an image of 41x30 pixels, the image has 40x30"
  )


def test_a_type_that_is_not_known_is_refused(tmp_path):
  vector = polygon(DOG, id="x", type="vectorlabels")
  make(tmp_path, task(annotation(vector)))
  assert "result x: type 'vector' is none of polygon" in defect(LabelStudio(), tmp_path)


def test_choices_about_the_picture_are_passed_over(tmp_path):
  choice = {"id": "c", "type": "choices", "value": {"choices": ["sunny"]}}
  make(tmp_path, task(annotation(choice, polygon(DOG))))
  assert_masks(only(LabelStudio(), tmp_path), ("dog", drawn(DOG)))


def test_an_export_that_breaks_off_is_named(tmp_path):
  make(tmp_path, task(annotation(polygon(DOG))), task(annotation(polygon(CAT))))
  file = tmp_path / "export.json"
  write_text(file, file.read_text()[:-40])
  photos, lines = read(LabelStudio(), tmp_path)
  assert len(photos) == 1
  assert lines[0].startswith("export.json:-: is not valid JSON")
