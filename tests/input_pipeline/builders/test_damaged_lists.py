"""Lists of strangers: whatever stands in an entry, it is a line and no traceback."""

import copy
import json
import random

import pytest

from input_pipeline.builders import registry
from input_pipeline.builders.folder import SourceFolder
from input_pipeline.records import RecordError
from miras_jax.errors import UserError
from tests.input_pipeline.builders import (
  ade_full_files,
  class_files,
  dialogue_files,
  list_files,
)

ADE_FULL = f"ADE20K_2021_17_01/{ade_full_files.STEM}.json"
SOURCES = {
  "ade20k_full": (ade_full_files.write_ade20k_full, ADE_FULL),
  "mapillary": (class_files.write_mapillary, "mapillary/config_v2.0.json"),
  "pascal_part": (list_files.write_pascal_part, "vlpart/pascal_part/train.json"),
  "coco_instances": (
    list_files.write_coco_instances,
    "coco/annotations/instances_train2017.json",
  ),
  "vg": (list_files.write_visual_genome, "VG/train_new.json"),
  "llava_mix665k": (dialogue_files.write_mix, "llava_v1_5_mix665k.json"),
}
ODD = (None, True, -1, 10**40, 0.5, 1e300, "", "\0", "..", "/", "\ud800", [], {}, [[]])
ODD += ("a" * 300, "a/" * 900, "9" * 5000)


def places(value, path=()):
  """The path of every value inside a parsed JSON text."""
  yield path
  if isinstance(value, dict | list):
    for key in value if isinstance(value, dict) else range(len(value)):
      yield from places(value[key], (*path, key))


def replaced(value, path, new):
  """A copy with another value at a place."""
  if not path:
    return new
  value = copy.copy(value)
  value[path[0]] = replaced(value[path[0]], path[1:], new)
  return value


def outcome(builder, root):
  """(records, errors); a UserError that ends the build counts as an error."""
  src = SourceFolder(root)
  results = []
  try:
    for split in builder.splits(src):
      for unit in builder.units(src, split):
        if isinstance(unit, RecordError):
          results.append(unit)
        else:
          results += builder.records(src, json.loads(json.dumps(unit)))
  except UserError as error:
    results.append(error)
  errors = [r for r in results if isinstance(r, UserError)]
  return len(results) - len(errors), errors


@pytest.mark.parametrize("name", SOURCES)
def test_no_value_anywhere_ends_in_a_traceback(tmp_path, name):
  write, file = SOURCES[name]
  write(tmp_path)
  content = json.loads((tmp_path / file).read_text("latin-1"))
  rng = random.Random(5)
  good, _ = outcome(registry.make(name), tmp_path)
  refused = 0
  for path in places(content):
    for odd in rng.sample(ODD, 2):
      (tmp_path / file).write_text(json.dumps(replaced(content, path, odd)))
      records, errors = outcome(registry.make(name), tmp_path)
      assert errors or records >= good
      refused += bool(errors)
  assert refused > 10
