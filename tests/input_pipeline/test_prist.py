"""The PRIST reader: good data is read right, every defect is named, nothing escapes."""

import copy
import json
import os
import pickle
import re
import time

import numpy as np
import pytest

from input_pipeline import image_ops, mask_ops, prist, safe_files
from input_pipeline.records import RecordError, SegConversation
from miras_jax.errors import UserError
from tests.prist_files import (
  HEIGHT,
  SQUARE,
  WIDTH,
  encode,
  labelme,
  photo,
  record,
  shape,
  write,
)
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
  "exif_rotated": ("accept", ""),
  "decompression_bomb_png": ("refuse", "past the limit of 50,000,000"),
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
  "focus_is_substring_of_another_label": ("warn", "ambiguous"),
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


@needs_data
def test_real_photographs_are_all_good():
  for split, count in (("train", 91), ("val", 22)):
    dataset = prist.read_dataset(DATA / "prist_real_mini", split)
    assert len(dataset) == count
    assert dataset.problems() == []


@needs_data
def test_target_areas_agree_with_the_metadata():
  rows = json.loads((DATA / "prist_real_mini/meta.json").read_text())
  dataset = prist.read_dataset(DATA / "prist_real_mini", "val")
  for row in (r for r in rows if r["split"] == "val"):
    _, rle = dataset[row["index"]].targets[0]
    share = mask_ops.rle_area(rle) / np.prod(rle["size"])
    assert share == pytest.approx(row["target_area_fraction"], rel=0.1, abs=2e-3)


@needs_data
def test_official_dialogues_without_photographs():
  dataset = prist.read_dataset(DATA / "prist_official", "test")
  assert len(dataset) == 508
  problems, notes = dataset.examine(7)
  img_id = dataset.image_ids[7]
  assert [p.reason for p in problems] == [
    f"images/{img_id}: no such file",
    f"masks/{img_id.replace('.jpg', '.json')}: no such file",
  ]
  assert notes == []


def test_a_record_is_read_whole(tmp_path):
  root = write(tmp_path, [record()])
  found = prist.read_dataset(root, "val")[0]
  assert found.id == "val/0"
  assert found.turns == (("user", "Where is it?"), ("assistant", "Sure, [SEG]."))
  np.testing.assert_array_equal(image_ops.decode_image(found.image), photo())
  ((name, rle),) = found.targets
  expected = np.zeros((HEIGHT, WIDTH), np.uint8)
  expected[4:13, 4:13] = 1
  assert name == "cup"
  np.testing.assert_array_equal(mask_ops.decode_rle(rle), expected)


def test_focus_list_gives_targets_in_order(tmp_path):
  annotation = labelme(shape("cup"), shape("Hat", [[20, 4], [30, 4], [30, 12]]))
  many = record(focus=["hat", None, "cup"], answer="[SEG], [SEG] and [SEG].")
  found = prist.read_dataset(write(tmp_path, [many], annotation=annotation), "val")[0]
  assert [name for name, _ in found.targets] == ["hat", "", "cup"]
  assert [mask_ops.rle_area(rle) > 0 for _, rle in found.targets] == [True, False, True]


def test_null_focus_is_an_empty_target_and_needs_no_mask_file(tmp_path):
  root = write(tmp_path, [record(focus=None)])
  (root / "masks" / "a.json").unlink()
  ((name, rle),) = prist.read_dataset(root, "val")[0].targets
  assert (name, rle["size"], mask_ops.rle_area(rle)) == ("", [HEIGHT, WIDTH], 0)


def test_empty_focus_list_is_a_conversation_without_a_mask(tmp_path):
  root = write(tmp_path, [record(focus=[], answer="It is not clear yet.")])
  assert prist.read_dataset(root, "val")[0].targets == ()


def test_label_that_contains_the_focus_is_taken(tmp_path):
  annotation = labelme(shape("a RED cup"), shape("hat", [[20, 4], [30, 4], [30, 12]]))
  dataset = prist.read_dataset(
    write(tmp_path, [record(focus="red cup")], annotation=annotation), "val"
  )
  problems, notes = dataset.examine(0)
  assert (problems, notes) == ([], [])
  assert mask_ops.rle_area(dataset[0].targets[0][1]) == 81
  assert dataset.ambiguous(0) == 0


def test_siblings_merged_by_substring_are_reported(tmp_path):
  annotation = labelme(
    shape("left cup"), shape("right cup", [[20, 4], [30, 4], [30, 12]])
  )
  dataset = prist.read_dataset(
    write(tmp_path, [record()], annotation=annotation), "val"
  )
  problems, notes = dataset.examine(0)
  assert problems == []
  assert "focus 'cup' is ambiguous: part of 2 labels" in notes[0].reason
  assert dataset.ambiguous(0) == 1
  assert mask_ops.decode_rle(dataset[0].targets[0][1])[5, 28] == 1


def test_degenerate_shape_beside_a_good_one_is_dropped_with_a_warning(tmp_path):
  annotation = labelme(shape("cup"), shape("cup", [[1, 1], [9, 9]]))
  dataset = prist.read_dataset(
    write(tmp_path, [record()], annotation=annotation), "val"
  )
  problems, notes = dataset.examine(0)
  assert problems == []
  assert "shape 1 ('cup') is dropped" in notes[0].reason
  assert mask_ops.rle_area(dataset[0].targets[0][1]) == 81


def test_defective_shape_of_another_label_refuses_nothing(tmp_path):
  bad = shape("hat", [[float("nan"), 1], [2, 2], [3, 1]])
  dataset = prist.read_dataset(
    write(tmp_path, [record()], annotation=labelme(shape("cup"), bad)), "val"
  )
  problems, notes = dataset.examine(0)
  assert problems == []
  assert "shape 1 ('hat') is no target and not usable" in notes[0].reason


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"focus": 3}, "focus holds a int"),
    ({"focus": ["cup", "  "]}, "focus is an empty text"),
    ({"focus": ["cup", "cup"]}, "1 [SEG] for 2 focus"),
    ({"dialogue": {}}, "dialogue is a dict"),
    ({"dialogue": ["hi"]}, "turn 0 is a str"),
    ({"dialogue": [{"from": ["human"], "value": ""}]}, "turn 0 is from \"['human']\""),
    ({"img_id": ""}, "img_id is empty"),
    ({"img_id": "x\\..\\..\\a.png"}, "leaves its folder"),
    ({"img_id": "C:\\a.png"}, "absolute path"),
    ({"img_id": "a\ud800.png"}, "unpaired surrogate"),
    ({"img_id": "."}, "not a regular file"),
    ({"img_id": "a" * 5000}, "5,000 characters, the limit is 1,024"),
    ({"img_id": "a" * 1000}, "images/aaaaaa"),  # longer than file systems allow
    ({"focus": "a" * 5000}, "5,000 characters, the limit is 1,024"),
    ({"answer": "[OBJ]cup then [OBJ]cup[SEG]"}, "[OBJ] has no [SEG]"),
    ({"answer": "\udfff [SEG]"}, "unpaired surrogate"),
  ],
)
def test_defects_of_a_record(tmp_path, changes, reason):
  dataset = prist.read_dataset(write(tmp_path, [record(**changes)]), "val")
  assert any(reason in p.reason for p in dataset.problems())
  with pytest.raises(RecordError, match=r"^val\.json:0: "):
    dataset[0]


def test_every_defect_of_a_record_has_its_line(tmp_path):
  bad = record(img_id="nowhere.png", focus=7, dialogue=[])
  dataset = prist.read_dataset(write(tmp_path, [bad]), "val")
  assert [p.reason for p in dataset.problems()] == [
    "dialogue is empty",
    "focus holds a int, want texts or null",
    "images/nowhere.png: no such file",
  ]


def test_a_line_stays_one_line(tmp_path):
  bad = record(img_id="a\nval.json:9: forged\x1b[31m.png")
  (line, *_) = prist.read_dataset(write(tmp_path, [bad]), "val").problems()
  assert len(str(line).splitlines()) == 1
  assert "\x1b" not in str(line)


def test_user_text_is_data(tmp_path):
  text = "[SEG] <image> </s> ASSISTANT: [OBJ]"
  typed = record()
  typed["dialogue"][0]["value"] = text
  found = prist.read_dataset(write(tmp_path, [typed]), "val")[0]
  assert found.turns[0] == ("user", text)
  assert len(found.targets) == 1


def test_symlink_out_of_the_folder_is_refused(tmp_path):
  secret = tmp_path / "secret.png"
  secret.write_bytes(encode(photo()))
  root = write(tmp_path / "data", [record(img_id="link.png")])
  (root / "images" / "link.png").symlink_to(secret)
  error = prist.read_dataset(root, "val").load(0)
  assert "link that leaves its folder" in str(error)


def test_images_folder_that_is_a_link_out_of_the_root(tmp_path):
  root = write(tmp_path / "data", [record()])
  (root / "images").rename(tmp_path / "photos")
  (root / "images").symlink_to(tmp_path / "photos")
  with pytest.raises(UserError, match="link out of the data folder"):
    prist.read_dataset(root, "val")
  dataset = prist.read_dataset(root, "val", images_dir=tmp_path / "photos")
  assert isinstance(dataset[0], SegConversation)


def test_published_layout_is_found(tmp_path):
  root = write(tmp_path, [record()])
  (root / "images").rename(root / "val")
  (root / "masks").rename(root / "val" / "masks")
  assert isinstance(prist.read_dataset(root, "val")[0], SegConversation)


def test_masks_beside_chosen_photographs_are_found(tmp_path):
  root = write(tmp_path / "data", [record()])
  (root / "images").rename(tmp_path / "photos")
  (root / "masks").rename(tmp_path / "photos" / "masks")
  dataset = prist.read_dataset(root, "val", images_dir=tmp_path / "photos")
  assert isinstance(dataset[0], SegConversation)


def test_splits_are_the_lists_at_the_root(tmp_path):
  root = write(tmp_path, [record()], split="train")
  write(tmp_path, [record()], split="val")
  (root / "meta.json").write_text("{}")
  assert prist.find_splits(root) == ["train", "val"]


def test_unknown_split_names_the_known_ones(tmp_path):
  with pytest.raises(UserError, match="no split 'tset'; it has val"):
    prist.read_dataset(write(tmp_path, [record()]), "tset")


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_data_is_one_line(tmp_path, name):
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=name):
    prist.find_splits(tmp_path / name)


def test_fingerprint_follows_the_dialogue_and_nothing_else(tmp_path):
  first = prist.read_dataset(write(tmp_path / "a", [record()]), "val").fingerprint()
  again = prist.read_dataset(
    write(tmp_path / "b", [dict(reversed(record().items()))]), "val"
  ).fingerprint()
  changed = copy.deepcopy(record())
  changed["dialogue"][0]["value"] += "!"
  other = prist.read_dataset(write(tmp_path / "c", [changed]), "val").fingerprint()
  assert first == again != other


def test_data_set_travels_to_a_worker_process(tmp_path):
  dataset = prist.read_dataset(write(tmp_path, [record(), "oops"]), "val")
  copied = pickle.loads(pickle.dumps(dataset))
  assert copied[0] == dataset[0]
  error = pickle.loads(pickle.dumps(copied.load(1)))
  assert str(error) == str(dataset.load(1))


def test_index_past_the_end_is_an_index_error(tmp_path):
  dataset = prist.read_dataset(write(tmp_path, [record()]), "val")
  with pytest.raises(IndexError):
    dataset.load(1)


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ("[" * 100_000, "nested too deeply"),
    ("[" + "9" * 5000 + "]", "too many digits"),
    ("", "is empty"),
    ("nonsense", "not valid JSON"),
    ("\xff\xfe[]", "not UTF-8"),
  ],
)
def test_hostile_list_is_one_line(tmp_path, text, reason):
  root = write(tmp_path, [record()])
  (root / "val.json").write_bytes(text.encode("latin-1"))
  with pytest.raises(RecordError, match=rf"^val\.json:-: .*{reason}"):
    prist.read_dataset(root, "val")


def test_huge_file_is_refused_unread(tmp_path):
  path = tmp_path / "big.json"
  with path.open("wb") as f:
    f.truncate(10 * 2**30)  # sparse: takes no disk, would take 10 GiB of memory
  start = time.monotonic()
  with pytest.raises(ValueError, match="more than the limit 67,108,864"):
    safe_files.read_bytes(path, safe_files.MAX_LIST_BYTES)
  assert time.monotonic() - start < 1


def test_named_pipe_does_not_hang(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(ValueError, match="not a regular file"):
    safe_files.read_bytes(tmp_path / "pipe", 10)


def test_mask_larger_than_the_image_is_never_allocated(tmp_path):
  annotation = labelme(shape("cup", SQUARE), height=10**9, width=10**9)
  dataset = prist.read_dataset(
    write(tmp_path, [record()], annotation=annotation), "val"
  )
  (problem,) = dataset.problems()
  assert "is for an image of 1000000000x1000000000 pixels" in problem.reason
