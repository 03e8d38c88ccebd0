"""ADE20K in full: objects by category, parts by name and what they belong to."""

import numpy as np
import pytest

from input_pipeline.builders import registry
from miras_jax.errors import UserError
from tests.input_pipeline.builders import ade_full_files as files
from tests.input_pipeline.builders.ade_full_files import SIZE
from tests.input_pipeline.builders.in_memory import (
  box,
  build_in_memory,
  masks,
  write_json,
)


def built(root):
  return build_in_memory(registry.make("ade20k_full"), root, "train")


def test_objects_and_parts_have_their_own_pixels(tmp_path):
  files.write_ade20k_full(tmp_path)
  records, errors = built(tmp_path)
  assert errors == []
  expected = {
    "train/ADE_train_00000001/0-401-0": files.CAR_BOX,
    "train/ADE_train_00000001/0-312-0": files.FACADE,
    "train/ADE_train_00000001/1-774-401": files.CAR_DOOR,
    "train/ADE_train_00000001/1-774-312": files.HOUSE_DOOR,
    "train/ADE_train_00000001/2-2978-774": files.GRIP,
  }
  assert [r.id for r in records] == list(expected)
  for record, place in zip(records, expected.values(), strict=True):
    np.testing.assert_array_equal(masks(record)[0], box(*SIZE, *place))
    assert record.image_id == "ade20k/ADE_train_00000001"


def test_a_part_is_named_with_the_first_synonym_of_its_whole(tmp_path):
  files.write_ade20k_full(tmp_path)
  names = [r.targets[0][0] for r in built(tmp_path)[0]]
  assert names[:2] == ["car", "building"]
  assert names[2] in ("car door", "the door of the car")
  assert names[3] in ("building door", "the door of the building")
  assert names[4] in ("door handle", "the handle of the door")


def test_a_single_object_without_a_list_around_it_is_read(tmp_path):
  document, path = files.write_ade20k_full(tmp_path)
  document["annotation"]["object"] = document["annotation"]["object"][0]
  write_json(path, document)
  records, errors = built(tmp_path)
  assert errors == [] and [r.targets[0][0] for r in records] == ["car"]


def test_a_part_of_nothing_is_named_and_the_others_stay(tmp_path):
  document, path = files.write_ade20k_full(tmp_path)
  document["annotation"]["object"].append(files.thing(9, files.DOOR, "door", 1, 77))
  write_json(path, document)
  records, [error] = built(tmp_path)
  assert len(records) == 5
  assert error.reason == "object 9 is a part of nothing that is listed"


def test_an_object_that_no_pixel_shows_is_named(tmp_path):
  document, path = files.write_ade20k_full(tmp_path)
  document["annotation"]["object"].append(files.thing(9, 5, "fence, fencing"))
  write_json(path, document)
  records, [error] = built(tmp_path)
  assert len(records) == 5
  assert (error.record, error.reason) == (
    "name_ndx/5",
    "no pixel shows 'fence' at level 0",
  )


@pytest.mark.parametrize(
  "objects, reason",
  [
    ([], "lists no object"),
    (["car"], "an object is a str, want an object"),
    ([files.thing(0, 401, "")], "name is empty"),
    ([files.thing(0, "x", "car")], "name_ndx is a str"),
    ([files.thing(0, 401, "car", 99)], "part_level is 99"),
    (
      [files.thing(0, 401, "car"), files.thing(1, 5, "a", 3, 0)],
      "_parts_3.png: no such",
    ),
  ],
)
def test_a_bad_annotation_is_named(tmp_path, objects, reason):
  document, path = files.write_ade20k_full(tmp_path)
  document["annotation"]["object"] = objects
  write_json(path, document)
  records, [error] = built(tmp_path)
  assert records == [] and reason in error.reason
  assert error.file.endswith("ADE_train_00000001.json")


def test_a_photograph_without_its_files_is_named(tmp_path):
  _, path = files.write_ade20k_full(tmp_path)
  path.unlink()
  with pytest.raises(UserError, match="00000001.json:-: no such file"):
    built(tmp_path)
