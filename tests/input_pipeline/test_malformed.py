"""The malformed data sets: each of the 69 entries behaves as the manifest says."""

import json
import os
import re

import numpy as np
import pytest

from input_pipeline import image_ops, mask_ops, prist
from input_pipeline.records import RecordError, SegConversation
from tests.shared_data import DATA, needs_data

MALFORMED = DATA / "malformed"

# What each kind of malformed/manifest.json leads to. The manifest's "Accept it" and
# "Refuse" are followed to the letter (a test below); where it leaves a choice, this
# table is ours. "warn": accepted, with a warning that holds the text; "refuse": the
# reason holds the text.
EXPECTED = {
  # fmt: off
  "truncated_jpeg": ("refuse", "Premature end"),
  "zero_byte_image": ("refuse", "0 bytes"),
  "png_named_jpg": ("accept", ""),
  "cmyk_jpeg": ("accept", ""),
  "png_16bit_grey": ("accept", ""),
  "palette_alpha_png": ("accept", ""),
  "one_pixel_image": ("refuse", "outside the image"),  # polygon of a photo
  "extreme_aspect_image": ("refuse", "outside the image"),  # likewise
  "exif_rotated": ("warn", "EXIF orientation (6) is ignored"),
  "decompression_bomb_png": ("refuse", "past the limit of 120,000,000"),
  "text_named_jpg": ("refuse", "not an image"),
  "missing_image": ("refuse", "no such file"),
  "grey_jpeg": ("accept", ""),
  "mask_size_differs_from_image": ("refuse", "384x306 pixels, the image has 192x153"),
  "unicode_image_name": ("accept", ""),
  "rgba_png": ("accept", ""),
  "double_extension": ("accept", ""),
  "polygon_two_points": ("refuse", "no ground truth"),
  "polygon_empty": ("refuse", "no ground truth"),
  "polygon_self_intersecting": ("accept", ""),
  "polygon_out_of_bounds": ("accept", ""),
  "polygon_fully_outside": ("refuse", "no ground truth"),
  "coordinate_nan": ("refuse", "finite"),
  "coordinate_huge": ("refuse", "1e+19"),
  "coordinate_strings": ("refuse", "'3.0', want a number"),
  "points_wrong_shape": ("refuse", "want [x, y]"),
  "missing_shapes": ("refuse", "'shapes'"),
  "missing_image_height": ("accept", ""),
  "image_height_absurd": ("refuse", "imageHeight is -5"),
  "label_missing": ("warn", "shape 1 has no label"),
  "mask_cp1252": ("accept", ""),
  "mask_utf8_bom": ("accept", ""),
  "mask_huge": ("accept", ""),
  "mask_truncated_json": ("refuse", "not valid JSON"),
  "mask_empty_file": ("refuse", "is empty"),
  "mask_missing_file": ("refuse", "no such file"),
  "shape_type_rectangle": ("accept", ""),
  "collinear_polygon": ("refuse", "no ground truth"),
  "focus_is_substring_of_another_label": ("accept", ""),  # an equal label wins
  "focus_differs_in_case": ("accept", ""),
  "no_seg": ("refuse", "0 [SEG] for 1 focus"),
  "two_seg_one_turn": ("refuse", "2 [SEG] for 1 focus"),
  "seg_in_two_turns": ("refuse", "2 [SEG] for 1 focus"),
  "seg_not_in_last_turn": ("accept", ""),
  "gpt_speaks_first": ("refuse", "turn 0 is from 'gpt'"),
  "unknown_role": ("refuse", "'system'"),
  "empty_dialogue": ("refuse", "dialogue is empty"),
  "ends_with_human": ("refuse", "last turn is from 'human'"),
  "value_missing": ("refuse", "turn 2: value is missing"),
  "empty_turn": ("warn", "turn 2 is empty"),
  "rtl_and_emoji": ("accept", ""),
  "very_long_turn": ("refuse", "100,000 characters, the limit is 32,768"),
  "image_token_typed_by_user": ("accept", ""),
  "seg_token_typed_by_user": ("accept", ""),
  "chat_markup_typed_by_user": ("accept", ""),
  "focus_matches_no_shape": ("refuse", "no ground truth"),
  "focus_empty": ("refuse", "focus is an empty text"),
  "path_traversal_img_id": ("refuse", "leaves its folder"),
  "absolute_path_img_id": ("refuse", "absolute path"),
  "nul_in_img_id": ("refuse", "NUL"),
  "img_id_number": ("refuse", "img_id is a int"),
  "duplicate_items": ("warn", "equal to record 0; both are kept"),
  "top_level_not_a_list": ("refuse", "holds a dict"),
  "list_of_strings": ("refuse", "is a str"),
  "dialogues_truncated_json": ("refuse", "not valid JSON"),
  "nul_bytes_in_json": ("refuse", "not valid JSON"),
  "empty_list": ("refuse", "nothing to do"),
  "json_lines": ("refuse", "JSON lines"),
  "duplicate_keys": ("warn", "'focus' is given twice"),
  # fmt: on
}


def manifest():
  path = MALFORMED / "manifest.json"
  return json.loads(path.read_text()) if path.exists() else []


def examine(root, split):
  """(problems, warnings) of a split as printed lines."""
  try:
    dataset = prist.read_dataset(root, split)
  except RecordError as e:
    return [str(e)], []
  pairs = [dataset.examine(i) for i in range(len(dataset))]
  problems = [str(p) for found, _ in pairs for p in found]
  warnings = [str(n) for _, notes in pairs for n in notes]
  return problems, [*map(str, dataset.notes()), *warnings]


@needs_data
@pytest.mark.parametrize("entry", manifest(), ids=lambda e: e["dataset_root"])
def test_malformed(entry):
  outcome, text = EXPECTED[entry["kind"]]
  problems, warnings = examine(MALFORMED / entry["dataset_root"], "test")
  if outcome == "refuse":
    assert len(problems) == 1
    assert text in problems[0]
    assert re.match(r"test\.json:(\d+|-): \S", problems[0])
    if entry["part"] != "dialogue":
      relative = entry["file"].split("/", 1)[1]
      stem = os.path.splitext(relative.split("/", 1)[1])[0]
      assert stem in problems[0]
  else:
    assert not problems
    assert bool(warnings) == (outcome == "warn")
    assert all(text in line for line in warnings)


@needs_data
def test_table_follows_the_manifest():
  entries = manifest()
  assert len(entries) == 69
  assert {e["kind"] for e in entries} == set(EXPECTED)
  for entry in entries:
    outcome = EXPECTED[entry["kind"]][0]
    if entry["expect"].startswith("Accept it;"):
      assert outcome == "accept", entry["kind"]
    if entry["expect"].startswith("Refuse"):
      assert outcome == "refuse", entry["kind"]


def only(kind):
  (entry,) = [e for e in manifest() if e["kind"] == kind]
  return prist.read_dataset(MALFORMED / entry["dataset_root"], "test")


@needs_data
def test_rectangle_is_filled():
  _, rle = only("shape_type_rectangle")[0].targets[0]
  expected = np.zeros((144, 192), np.uint8)
  expected[20:61, 20:81] = 1
  np.testing.assert_array_equal(mask_ops.decode_rle(rle), expected)


@needs_data
def test_equal_label_wins_over_one_that_contains_it():
  _, rle = only("focus_is_substring_of_another_label")[0].targets[0]
  mask = mask_ops.decode_rle(rle)
  assert mask.any() and not mask[:41, :41].any()


@needs_data
def test_choice_of_the_equal_label_is_counted():
  dataset = only("focus_is_substring_of_another_label")
  dataset.load(0)
  assert dataset.ambiguous(0) == 1


@needs_data
def test_out_of_bounds_polygon_stays_where_it_is():
  _, rle = only("polygon_out_of_bounds")[0].targets[0]
  document = json.loads(next(MALFORMED.glob("21*/masks/*.json")).read_text())
  polygons = [s["points"] for s in document["shapes"]]
  roomy = mask_ops.rasterise_polygons(polygons, 115, 600)
  np.testing.assert_array_equal(mask_ops.decode_rle(rle), roomy[:, :192])


@needs_data
def test_last_of_duplicate_keys_counts():
  assert only("duplicate_keys")[0].targets[0][0] == "pizza on the right"


@needs_data
def test_good_record_beside_a_bad_one_is_read():
  dataset = only("list_of_strings")
  assert isinstance(dataset.load(0), SegConversation)
  assert isinstance(dataset.load(1), RecordError)


@needs_data
def test_text_of_any_script_is_unchanged():
  raw = json.loads(next(MALFORMED.glob("51*/test.json")).read_text(encoding="utf-8"))
  found = [text for _, text in only("rtl_and_emoji")[0].turns]
  assert found == [turn["value"] for turn in raw[0]["dialogue"]]
  assert any("👩‍👩‍👧‍👦" in text for text in found)


@needs_data
def test_cmyk_photograph_keeps_its_colours():
  clean = (DATA / "prist_real_mini/images/coco_000000255165.jpg").read_bytes()
  mean = image_ops.decode_image(clean).mean((0, 1))
  found = image_ops.decode_image(only("cmyk_jpeg")[0].image).mean((0, 1))
  np.testing.assert_allclose(found, mean, atol=1)
