"""Whatever a label file holds, it is read or it is a line: never a traceback."""

import copy
import json
import random

import pytest

from input_pipeline.annotations.find import make_form
from input_pipeline.records import RecordError
from miras_jax.errors import UserError
from tests.input_pipeline.annotations import (
  test_coco_form,
  test_label_studio,
  test_labelme_form,
)
from tests.input_pipeline.annotations.drawn import (
  CAT,
  DOG,
  HAT,
  drawn,
  photo,
  read,
)

ODD = (
  None, True, -1, 0, 1, 0.5, 10**30, -1e300, 1e999, float("nan"), "", "x", "\ud800",
  "../../x", "\0", [], {}, [[]], [None], {"x": 1}, [1, 2], "[SEG]", [["a", "b"]],
)  # fmt: skip


def labelme(folder):
  shapes = [test_labelme_form.shape("dog", p, group=1) for p in (DOG, HAT)]
  test_labelme_form.make(folder, *shapes)
  return folder / "a.json"


def coco(folder):
  code = test_coco_form.uncompressed(drawn(CAT))
  flat = test_coco_form.flat
  things = test_coco_form.thing(flat(DOG, HAT)), test_coco_form.thing(code, iscrowd=1)
  test_coco_form.make(folder, *things)
  return folder / "labels.coco.json"


def label_studio(folder):
  made = test_label_studio
  box = made.result("rectangle", made.box(3, 4, 12, 16, 30))
  brush = made.result("brush", {"format": "rle", "rle": made.packed(drawn(CAT))})
  ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 20, "rotation": 0}
  results = [made.polygon(DOG), box, brush, made.result("ellipse", ellipse)]
  made.make(folder, made.task(made.annotation(*results, created_at="2024")))
  return folder / "export.json"


def places(value, path=()):
  """Paths of everything inside a JSON value."""
  yield path
  if isinstance(value, dict | list):
    pairs = value.items() if isinstance(value, dict) else enumerate(value[:4])
    for key, inner in pairs:
      yield from places(inner, (*path, key))


def damaged(document, random_):
  """The document with an odd value, or nothing, at a place drawn by chance."""
  document = copy.deepcopy(document)
  path = random_.choice([p for p in places(document) if p])
  inside = document
  for key in path[:-1]:
    inside = inside[key]
  if random_.random() < 0.2:
    del inside[path[-1]]
  else:
    inside[path[-1]] = random_.choice(ODD)
  return document


@pytest.mark.parametrize("make", [labelme, coco, label_studio])
def test_any_odd_value_is_read_or_is_a_line(tmp_path, make):
  file = make(tmp_path)
  photo(tmp_path / "images/b.jpg")
  document, random_ = json.loads(file.read_text()), random.Random(0)
  refused = 0
  for _ in range(150):
    file.write_text(json.dumps(damaged(document, random_)))
    try:
      _, lines = read(make_form(make.__name__), tmp_path)
    except (RecordError, UserError) as error:
      lines = [str(error)]
    assert all("\n" not in line for line in lines)
    refused += any(file.name in line for line in lines)
  assert 20 < refused < 150
