"""The PRIST reader: good data is read right, every defect is named, nothing escapes."""

import copy
import json
import os
import pickle
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


def test_an_annotation_is_read_once_for_the_conversations_of_its_image(
  tmp_path, monkeypatch
):
  read, files = prist.labelme.read_annotation, []
  monkeypatch.setattr(
    prist.labelme, "read_annotation", lambda path: files.append(path) or read(path)
  )
  talks = [record(), record(answer="There: [SEG]."), record(answer="[SEG]")]
  dataset = prist.read_dataset(write(tmp_path, talks), "val")
  assert all(dataset[i].targets for i in range(3)) and len(files) == 1


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
  assert (
    "focus 'cup' is ambiguous: all of 2 labels ('left cup', 'right cup')"
    in notes[0].reason
  )
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


def test_files_of_an_image_are_read_once_for_all_its_conversations(
  tmp_path, monkeypatch
):
  dataset = prist.read_dataset(write(tmp_path, [record()] * 3), "val")
  opened, read = [], safe_files.read_bytes
  monkeypatch.setattr(
    prist.safe_files, "read_bytes", lambda *a: opened.append(a[0]) or read(*a)
  )
  assert len({r.image for r in dataset}) == 1
  assert len(opened) == len(set(opened))


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
