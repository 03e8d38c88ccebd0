"""Conversations about labelled photographs: what they say is true and leads somewhere.

H W the photograph's height and width.
"""

import collections
import json
import random
import re

import cv2
import numpy as np
import pytest

from input_pipeline import image_ops, mask_ops
from input_pipeline.annotations.photo import LabelledPhoto, Region
from input_pipeline.conversation import count_segs
from input_pipeline.narrate import things
from input_pipeline.narrate import write as door
from input_pipeline.narrate.wordings import ENGLISH, Wordings
from input_pipeline.narrate.write import write
from tests.input_pipeline.narrate.drawn import draw, street
from tests.shared_data import DATA, needs_data

WORDS = Wordings.load()
KINDS = tuple(door.MIX)


def only(kind, photo, image, count=12, key="k", **options):
  """Conversations of one kind."""
  mix = {kind: 1}
  return write(photo, image, key, wordings=WORDS, per_photo=count, mix=mix, **options)


def users(turns):
  return [text for role, text in turns if role == "user"]


def assert_sound(turns, targets, size):
  assert [role for role, _ in turns] == ["user", "assistant"] * (len(turns) // 2)
  segs = sum(count_segs(text) for role, text in turns if role == "assistant")
  assert segs == len(targets) > 0
  assert "[SEG]" in turns[-1][1]
  for name, rle in targets:
    assert tuple(rle["size"]) == size
    assert (mask_ops.rle_area(rle) == 0) == (name == "")


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_each_seg_has_its_target_and_an_answer_comes_last(key):
  photo, image = street(complete=frozenset(["hat", "scarf"]))
  talks = write(photo, image, key, wordings=WORDS, per_photo=20)
  assert len(talks) == 20
  for turns, targets in talks:
    assert_sound(turns, targets, (photo.height, photo.width))


def test_equal_keys_give_equal_conversations_and_other_keys_others():
  photo, image = street()
  first, again, other = (
    write(photo, image, key, wordings=WORDS, per_photo=8) for key in "aab"
  )
  assert first == again != other


def test_no_conversation_comes_twice_and_targets_take_turns():
  photo, image = street()
  talks = only("guess", photo, image, count=8)
  assert len(set(map(repr, talks))) == 8
  asked = collections.Counter(name for _, targets in talks for name, _ in targets)
  assert set(asked) == {"hat", "coat", "bag", "shoes"}
  assert min(asked.values()) >= 2


def test_labelled_parts_take_no_turn_from_the_things_themselves():
  photo, image = draw(
    ("car", (10, 30, 60, 60), "blue"),
    ("wheel", (15, 50, 25, 60), "black", 0),
    ("hat", (80, 4, 100, 14), "red"),
    ("bag", (84, 44, 104, 64), "white"),
  )
  mix = {"guess": 1, "part": 1}
  talks = write(photo, image, "k", wordings=WORDS, per_photo=12, mix=mix)
  asked = collections.Counter(name for _, targets in talks for name, _ in targets)
  assert len(talks) == 12
  assert asked.keys() >= {"car", "wheel", "hat", "bag"}


def test_a_target_is_the_region_of_its_name():
  photo, image = street()
  masks = {region.name: region.rle for region in photo.regions}
  for kind in ("guess", "narrow", "without", "seek"):
    for _, targets in only(kind, photo, image):
      assert all(masks[name] == rle for name, rle in targets)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_turn_does_not_name_the_target(kind):
  photo, image = street(complete=frozenset(["scarf"]))
  for turns, targets in only(kind, photo, image, count=30):
    last = set(re.findall(r"\w+", users(turns)[-1]))
    assert not last & {"hat", "coat", "bag", "shoes", "scarf"}
    before = " ".join(text for _, text in turns[:-2])
    kind_of = {"left shoes": "shoes", "right shoes": "shoes", "": "scarf"}
    assert all(kind_of.get(name, name) in before for name, _ in targets)


def test_the_other_one_is_the_thing_that_the_assistant_did_not_guess():
  photo, image = street()
  talks = [t for t in only("guess", photo, image, count=40) if len(t[1]) == 1]
  assert talks
  for turns, targets in talks:
    (_, guess), last = turns[1], users(turns)[-1]
    wrong = "other" in last
    assert (f"the {targets[0][0]}" in guess) != wrong
    assert f"the {targets[0][0]}" in turns[0][1]


def test_an_absent_name_that_is_labelled_everywhere_gets_an_empty_mask():
  photo, image = street(complete=frozenset(["hat", "scarf", "dress"]))
  talks = only("none", photo, image)
  assert {users(turns)[0].split()[-1] for turns, _ in talks} == {"scarf?", "dress?"}
  empty = mask_ops.empty_rle(photo.height, photo.width)
  assert all(targets == (("", empty),) for _, targets in talks)


def test_a_question_of_one_round_names_what_it_wants():
  photo, image = street()
  for turns, targets in only("name", photo, image):
    ((name, rle),) = targets
    assert len(turns) == 2 and f"the {name}" in turns[0][1]
    assert rle in [region.rle for region in photo.regions if region.name == name]


def test_a_question_of_one_round_for_what_is_absent_gets_an_empty_mask():
  photo, image = street(complete=frozenset(["hat", "scarf"]))
  for turns, targets in only("name_absent", photo, image):
    assert len(turns) == 2 and "the scarf" in turns[0][1]
    assert targets == (("", mask_ops.empty_rle(photo.height, photo.width)),)


def test_what_nobody_has_named_is_asked_back_and_not_masked():
  photo, image = street()
  for (_, (_, answer)), targets in only("unclear", photo, image):
    assert targets == () and answer in ("Which one?", "Which do you mean?")


def test_without_complete_labels_nothing_is_said_to_be_absent():
  photo, image = street()
  kinds = ("none", "missing", "name_absent")
  assert not any(only(kind, photo, image) for kind in kinds)


def test_of_a_thing_and_a_missing_one_only_the_thing_has_a_mask():
  photo, image = street(complete=frozenset(["hat", "scarf"]))
  talks = only("missing", photo, image, count=20)
  empty = mask_ops.empty_rle(photo.height, photo.width)
  asked_again = {"other", "missing"}
  for turns, ((name, rle),) in talks:
    seen = next(n for n in ("hat", "coat", "bag", "shoes") if f"the {n}" in turns[0][1])
    assert "the scarf" in turns[0][1] and f"the {seen}" in turns[1][1]
    again = bool(asked_again & set(users(turns)[-1].split()))
    masks = {region.name: region.rle for region in photo.regions}
    assert (name, rle) == (("", empty) if again else (seen, masks[seen]))
  assert len({targets[0][0] == "" for _, targets in talks}) == 2


def test_two_targets_are_those_that_are_left_in_their_order():
  photo, image = street()
  talks = [t for t in only("without", photo, image, count=20) if len(t[1]) == 2]
  assert talks
  for turns, targets in talks:
    left = turns[3][1]
    first, second = (left.index(f"the {name}") for name, _ in targets)
    assert first < second
    assert turns[-1][1].count("[SEG]") == 2


def test_a_thing_in_two_pieces_is_asked_for_whole_and_then_on_one_side():
  photo, image = street()
  talks = only("piece", photo, image)
  assert talks
  for turns, ((whole, _), (name, rle)) in talks:
    side = name.removesuffix(" shoes")
    assert whole == "shoes" and side in users(turns)[-1]
    columns = np.flatnonzero(mask_ops.decode_rle(rle).any(0))
    assert (columns[0], columns[-1]) == {"left": (42, 53), "right": (62, 73)}[side]


def test_things_of_one_name_are_counted_and_told_apart():
  photo, image = draw(
    ("car", (4, 40, 30, 60), "red"),
    ("car", (45, 40, 71, 60), "blue"),
    ("car", (90, 40, 116, 60), "white"),
  )
  talks = only("narrow", photo, image, count=20)
  x_of = dict(zip(map(repr, (r.rle for r in photo.regions)), (0, 1, 2), strict=True))
  for turns, (target,) in talks:
    assert "three cars" in turns[1][1]
    told = " ".join(users(turns)[1:])
    where = {"leftmost": 0, "red": 0, "blue": 1, "central": 1, "rightmost": 2}
    index = {i for word, i in (where | {"white": 2}).items() if word in told}
    assert index == {x_of[repr(target[1])]} or "ones" in told
  assert {repr(t[1]) for _, (t,) in talks} == set(x_of)


def test_many_things_are_first_narrowed_to_some_of_them():
  photo, image = draw(
    ("car", (4, 10, 30, 30), "red"),
    ("car", (4, 70, 30, 90), "red"),
    ("car", (80, 10, 116, 30), "blue"),
    ("car", (80, 70, 116, 90), "blue"),
  )
  told = [users(turns) for turns, _ in only("narrow", photo, image, count=20)]
  steps = [t for t in told if any(" ones" in text for text in t)]
  assert steps
  red_top = [
    target[1]
    for turns, (target,) in only("narrow", photo, image, count=40)
    if "red ones" in turns[2][1] and "highest" in turns[4][1]
  ]
  assert red_top and all(rle == photo.regions[0].rle for rle in red_top)


def test_a_crowd_is_no_target_and_nothing_of_its_name_is_told_apart():
  photo, image = draw(
    ("car", (4, 40, 30, 60), "red"),
    ("car", (60, 40, 110, 60), "blue", None, True),
  )
  assert write(photo, image, "k", wordings=WORDS, per_photo=5) == []


def test_a_small_thing_is_no_target_but_makes_its_name_ambiguous():
  photo, image = draw(
    ("car", (4, 40, 30, 60), "red"),
    ("car", (110, 90, 112, 92), "blue"),
    ("tree", (60, 10, 80, 40), "white"),
  )
  talks = write(photo, image, "k", wordings=WORDS, per_photo=20)
  small = photo.regions[1].rle
  assert talks and all(rle != small for _, targets in talks for _, rle in targets)
  assert not any("the car " in text for turns, _ in talks for _, text in turns)
  told = only("narrow", photo, image, min_area=1e-6)
  assert any(rle == small for _, targets in told for _, rle in targets)


def test_a_part_is_asked_for_after_its_whole():
  photo, image = draw(
    ("car", (4, 40, 44, 70), "red"),
    ("wheel", (8, 60, 18, 70), "black", 0),
    ("tree", (70, 10, 90, 60), "white"),
  )
  talks = only("part", photo, image)
  assert talks
  for turns, targets in talks:
    assert "the car" in turns[0][1] and "wheel" in users(turns)[-2]
    assert targets == (("wheel", photo.regions[1].rle),)


def test_a_label_that_spells_a_control_token_is_not_spoken():
  photo, image = draw(
    ("hat", (4, 4, 30, 30), "red"),
    ("[SEG]", (60, 4, 90, 30), "blue"),
    ("shoes", (4, 60, 30, 90), "black"),
  )
  for turns, targets in write(photo, image, "k", wordings=WORDS, per_photo=20):
    assert_sound(turns, targets, (photo.height, photo.width))
    assert {name for name, _ in targets} <= {"hat", "shoes"}


def test_a_photograph_without_labels_gives_no_conversation():
  assert write(*draw(), "k", wordings=WORDS, per_photo=3) == []


def test_a_mask_of_another_size_is_an_error_that_names_it():
  photo, image = street()
  with pytest.raises(ValueError, match="mask of 'hat'"):
    write(photo, image[:-1], "k", wordings=WORDS, per_photo=3)


def test_all_that_is_said_comes_from_the_file_of_wordings(tmp_path):
  data = json.loads(ENGLISH.read_text())
  marked = {k: [f"<{k}>{t}" for t in texts] for k, texts in data["say"].items()}
  (tmp_path / "marked.json").write_text(json.dumps(data | {"say": marked}))
  words = Wordings.load(tmp_path / "marked.json")
  photo, image = street(complete=frozenset(["scarf"]))
  for turns, _ in write(photo, image, "k", wordings=words, per_photo=30):
    assert all(text.startswith("<") and "<" not in text[1:] for _, text in turns)


@needs_data
def test_real_photographs_get_conversations_that_name_what_is_in_them():
  root = DATA / "street_photos"
  labels = json.loads((root / "labels.json").read_text())
  for path in random.Random(0).sample(sorted((root / "masks").glob("*.png")), 8):
    data = (root / "images" / f"{path.stem}.jpg").read_bytes()
    index_HW = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    regions = tuple(
      Region(labels[v], mask_ops.encode_rle(index_HW == v))
      for v in np.unique(index_HW)
      if v
    )
    photo = LabelledPhoto(
      image=data,
      image_id=path.stem,
      height=index_HW.shape[0],
      width=index_HW.shape[1],
      regions=regions,
      instances=False,
      complete=frozenset(labels[1:]),
    )
    image = image_ops.decode_image(data)
    talks = write(photo, image, "k", wordings=WORDS, per_photo=6)
    assert len(talks) == 6
    for turns, targets in talks:
      assert_sound(turns, targets, index_HW.shape)


@pytest.mark.parametrize("first, told", [(2, False), (14, True)])
def test_a_side_is_told_only_where_it_is_one_of_the_picture_too(first, told):
  mask = np.zeros((24, 40), np.uint8)
  mask[8:16, first : first + 6] = 1
  mask[8:16, first + 9 : first + 15] = 1
  assert bool(things.pieces(mask_ops.encode_rle(mask), 0.001)) == told
