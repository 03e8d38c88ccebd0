"""`miras data agreement`: what two annotators have alike, by numbers known by hand."""

import json

import numpy as np
import pytest

from miras_jax.data import agreement
from miras_jax.data import command as data
from miras_jax.errors import UserError
from tests import prist_files
from tests.prist_files import labelme, record, shape

SQUARE = [[4, 4], [13, 4], [13, 13], [4, 13]]  # 10 x 10 pixels
HALF = [[4, 4], [13, 4], [13, 8], [4, 8]]  # its upper half


def annotator(root, records, **pictures):
  """A data set of pictures {name: shapes}, all of one photograph."""
  prist_files.write(root, records)
  photo = (root / "images" / "a.png").read_bytes()
  for name, shapes in pictures.items():
    (root / "images" / f"{name}.png").write_bytes(photo)
    (root / "masks" / f"{name}.json").write_text(json.dumps(labelme(*shapes)))
  return root


def of(*names, **changes):
  return [record(img_id=f"{name}.png", **changes) for name in names]


def agree(tmp_path, a, b, status=0):
  """agreement.json of two annotators, each (records, {picture: shapes})."""
  places = [
    str(annotator(tmp_path / side, records, **pictures))
    for side, (records, pictures) in (("first", a), ("second", b))
  ]
  out = tmp_path / "out"
  assert data.main(["agreement", *places, f"--out={out}", "--resamples=50"]) == status
  text = (out / "agreement.json").read_text()
  return json.loads(text, parse_constant=lambda x: pytest.fail(f"{x} in the JSON"))


def value(found, name):
  return found["metrics"][name]["value"]


def test_equal_annotations_agree_in_everything(tmp_path):
  one = of("a", "b"), {x: [shape("cup", SQUARE)] for x in "ab"}
  found = agree(tmp_path, one, one)
  whole = {"giou", "ciou", "f1_macro", "biou", "kappa", "kappa_macro", "found_f1"}
  whole |= {"focus_equal", "turns_equal", "rouge_l"}
  assert {name: value(found, name) for name in whole} == dict.fromkeys(whole, 1.0)
  assert found["masks"] == found["dialogues"] == found["images"] == 2


def test_half_a_mask_has_half_the_iou_and_the_kappa_of_the_textbook(tmp_path):
  first = of("a", "b"), {x: [shape("cup", SQUARE)] for x in "ab"}
  second = of("a", "b"), {"a": [shape("cup", SQUARE)], "b": [shape("cup", HALF)]}
  found = agree(tmp_path, first, second)
  assert value(found, "giou") == 0.75
  size = prist_files.HEIGHT * prist_files.WIDTH
  agreed = (size - 50) / size
  chance = (100 * 50 + (size - 100) * (size - 50)) / size**2
  assert value(found, "kappa_macro") == pytest.approx(
    (1 + (agreed - chance) / (1 - chance)) / 2
  )
  assert found["metrics"]["giou"]["low"] == 0.5 < found["metrics"]["giou"]["high"]
  assert found["worst"][0] == {"image": "b.png", "name": "cup", "iou": 0.5}


def test_pooled_kappa_is_that_of_all_pixels():
  """Two pictures as one: 10 and 30 of 100 pixels by A, 10 and 10 by B, all in A's."""
  areas = np.array([[10, 10, 10, 100], [10, 30, 10, 100]], float)
  agreed, chance = 180 / 200, (40 * 20 + 160 * 180) / 200**2
  assert agreement.kappa(areas.sum(0)) == pytest.approx(
    (agreed - chance) / (1 - chance)
  )
  assert agreement.kappa(np.array([[0, 0, 0, 9.0]]))[0] == 1.0


def test_names_are_matched_without_case_and_what_is_in_one_alone_is_named(
  tmp_path, capsys
):
  first = of("a", "b"), {"a": [shape("Cup  ", SQUARE)], "b": [shape("cup", SQUARE)]}
  dish = of("a", focus="cup") + of("a", focus="dish")
  second = dish, {"a": [shape("cup", SQUARE), shape("dish", HALF)]}
  found = agree(tmp_path, (of("a", focus="Cup") + of("b"), first[1]), second)
  assert found["only"]["images"] == {"A": ["b.png"], "B": []}
  assert found["only"]["masks"] == {"A": [], "B": ["a.png: dish"]}
  assert found["only"]["dialogues"]["B"] == ["a.png: val.json:1"]
  assert value(found, "found_f1") == pytest.approx(2 / 3)
  out = capsys.readouterr().out
  assert "masks only in B: a.png: dish\n" in out and "masks only in B: 1\n" in out


def test_dialogues_about_other_targets_are_compared_in_their_order(tmp_path):
  pictures = {"a": [shape("cup", SQUARE), shape("dish", HALF)]}
  longer = [
    {"from": "human", "value": "Hello."},
    {"from": "gpt", "value": "Yes?"},
    *record()["dialogue"],
  ]
  first = of("a", focus="cup"), pictures
  second = of("a", focus="dish", dialogue=longer), pictures
  found = agree(tmp_path, first, second)
  assert value(found, "focus_equal") == value(found, "turns_equal") == 0.0
  assert value(found, "turns_apart") == 1.0
  assert 0.5 < value(found, "rouge_l") < 1.0


def test_several_masks_of_one_name_are_matched_by_overlap(tmp_path):
  """A record's focus unites equal names: two records of one name have equal masks, so
  the two masks come from two splits."""
  places = []
  for side, order in (("first", (SQUARE, HALF)), ("second", (HALF, SQUARE))):
    root = tmp_path / side
    for split, points in zip(("train", "val"), order, strict=True):
      folder = root / split
      prist_files.write(root, of("a"), split=split)
      (folder / "masks").mkdir(parents=True)
      text = json.dumps(labelme(shape("cup", points)))
      (folder / "masks" / "a.json").write_text(text)
      (folder / "a.png").write_bytes((root / "images" / "a.png").read_bytes())
    (root / "masks" / "a.json").unlink()
    places.append(str(root))
  out = tmp_path / "out"
  assert data.main(["agreement", *places, f"--out={out}", "--resamples=9"]) == 0
  found = json.loads((out / "agreement.json").read_text())
  assert found["masks"] == 2 and value(found, "giou") == 1.0


def test_masks_of_another_size_are_named_and_left_out(tmp_path):
  pictures = {"a": [shape("cup", SQUARE)], "b": [shape("cup", SQUARE)]}
  first, second = (annotator(tmp_path / x, of("a", "b"), **pictures) for x in "12")
  wide = prist_files.encode(prist_files.photo(24, 40))
  (second / "images" / "b.png").write_bytes(wide)
  annotation = labelme(shape("cup", SQUARE), width=40)
  (second / "masks" / "b.json").write_text(json.dumps(annotation))
  out = tmp_path / "out"
  assert data.main(["agreement", str(first), str(second), f"--out={out}"]) == 0
  found = json.loads((out / "agreement.json").read_text())
  assert found["other_size"] == ["b.png: cup: [24, 32] in A, [24, 40] in B"]
  assert found["masks"] == 1


def test_a_defective_record_is_named_with_status_1(tmp_path):
  good = of("a"), {"a": [shape("cup", SQUARE)]}
  bad = of("a") + [record(img_id="nowhere.png")], good[1]
  found = agree(tmp_path, good, bad, status=1)
  assert found["defective"]["A"] == [] and "nowhere.png" in found["defective"]["B"][0]


def test_no_picture_in_common_is_one_line(tmp_path):
  pictures = {x: [shape("cup", SQUARE)] for x in "ab"}
  with pytest.raises(UserError, match="no picture in common in val"):
    agree(tmp_path, (of("a"), pictures), (of("b"), pictures))


def test_two_runs_into_one_folder_are_told(tmp_path):
  with agreement.lock.hold(tmp_path, "miras data agreement"):
    with pytest.raises(UserError, match="is in use by `miras data agreement`"):
      data.main(["agreement", "a", "b", f"--out={tmp_path}"])


def test_more_resamples_than_memory_holds_are_one_line():
  with pytest.raises(UserError, match="--resamples=1000000000: want at most 10,000"):
    data.main(["agreement", "a", "b", "--resamples=1000000000"])


def test_pictures_that_are_defective_in_one_are_told_where_none_is_left(tmp_path):
  pictures = {"a": [shape("cup", SQUARE)]}
  with pytest.raises(UserError, match="defective in B: .*b.png"):
    agree(tmp_path, (of("a"), pictures), (of("b"), {}))


def test_no_split_in_common_is_one_line(tmp_path):
  first = prist_files.write(tmp_path / "first", of("a"))
  second = prist_files.write(tmp_path / "second", of("a"), split="test")
  with pytest.raises(UserError, match="no split in common"):
    data.main(["agreement", str(first), str(second)])
