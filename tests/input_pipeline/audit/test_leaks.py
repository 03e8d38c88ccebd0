"""Pictures that splits or data sets share."""

import cv2
import numpy as np
import pytest

from input_pipeline import image_ops
from input_pipeline.audit.pictures import (
  NEAR_BITS,
  Pictures,
  alike,
  coco_id,
  describe,
  near_pairs,
)
from tests.input_pipeline.audit.made import Made, audited, conversation, photo
from tests.shared_data import DATA, needs_data


def train_and(*held_out):
  train = Made(*map(conversation, range(6)), file="train")
  return train, Made(*held_out, file="val")


def test_splits_with_pictures_of_their_own_are_clean():
  assert audited(*train_and(conversation(7), conversation(8))) == ({}, [])


def test_a_picture_of_another_split_is_found_by_its_pixels_whatever_its_name():
  counts, lines = audited(
    *train_and(conversation(7), conversation(8, image=photo(3), image_id="new.png"))
  )
  assert counts == {"equal_picture": 1}
  assert lines == ["val:1: its picture new.png has the pixels of 3.png of train:3"]


@pytest.mark.parametrize(
  "other",
  [
    pytest.param(
      lambda image: cv2.resize(image, (40, 30), interpolation=cv2.INTER_AREA),
      id="half the size",
    ),
    pytest.param(lambda image: cv2.convertScaleAbs(image, alpha=0.8), id="darker"),
    pytest.param(
      lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [1, 40])[1], 1),
      id="compressed",
    ),
  ],
)
def test_a_picture_that_looks_like_one_of_another_split_is_found(other):
  image = other(photo(3))
  held_out = conversation(8, image=image, targets=(), turns=(("user", "Hi"),) * 2)
  counts, lines = audited(*train_and(conversation(7), held_out))
  assert counts == {"near_picture": 1}
  assert lines[0].startswith("val:1: its picture 8.png looks like (")
  assert lines[0].endswith("3.png of train:3")


def test_plain_pictures_of_other_colours_do_not_look_alike():
  plain = [np.full_like(photo(), level) for level in (40, 90, 200)]
  train = Made(conversation(0, image=plain[0]), file="train")
  held_out = [conversation(k, image=plain[k]) for k in (1, 2)]
  assert audited(train, Made(*held_out))[0] == {}


def test_equal_ids_of_two_splits_are_found_though_the_pixels_differ():
  counts, lines = audited(*train_and(conversation(9, image_id="3.png")))
  assert counts == {"equal_id": 1}
  assert lines == ["val:0: its picture 3.png has the id of 3.png of train:3"]


def test_a_coco_picture_has_one_number_in_all_releases():
  train = Made(conversation(0, image_id="000000000790.jpg"), file="train")
  held_out = Made(conversation(1, image_id="COCO_val2014_000000000790.jpg"))
  assert audited(train, held_out)[0] == {"equal_id": 1}
  assert coco_id("photo_000000000790_1.jpg") == coco_id("790.jpg") == ""


def test_another_data_set_is_compared_with_and_not_audited_itself():
  other = Made(
    conversation(0, image=photo(40)), conversation(1, image_id="x.png", image=photo(2)),
    conversation(2, image=photo(40), image_id="again.png"), file="other/train",
  )  # fmt: skip
  counts, lines = audited(*train_and(conversation(7)), against=[other])
  assert counts == {"equal_picture": 1}  # and not that both have a 0.png
  assert lines == [
    "train:2: its picture 2.png has the pixels of x.png of other/train:1"
  ]


def test_many_conversations_about_a_leaked_picture_are_one_finding():
  counts, _ = audited(*train_and(*[conversation(3)] * 4))
  assert counts == {"equal_picture": 1}


def test_a_picture_under_two_ids_of_a_split_is_no_leak():
  again = conversation(9, image=photo(0))
  counts, _ = audited(Made(conversation(0), again))
  assert counts == {"duplicate_picture": 1}


def test_near_pairs_are_those_of_comparing_all_with_all():
  rng = np.random.default_rng(0)
  hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
  flips = [sum(1 << int(b) for b in rng.choice(64, k, False)) for k in range(1, 11)]
  hashes = np.concatenate([hashes, hashes[:10] ^ np.array(flips, np.uint64)])
  distance = np.bitwise_count(hashes[:, None] ^ hashes[None])
  wanted = {(i, j) for i, j in np.argwhere(distance <= 6).tolist() if i < j}
  found = list(near_pairs(hashes, 6))
  assert set(found) == wanted and len(found) == len(wanted) == 6


@needs_data
def test_real_photographs_are_found_again_after_what_copies_go_through():
  table, others = Pictures(), []
  paths = sorted((DATA / "street_photos/images").iterdir())[::4]
  for number, path in enumerate(paths):
    image_HWC = image_ops.decode_image(path.read_bytes())
    table.add(0, number, describe(path.name, image_HWC))
    others.append([describe("", other) for other in changed(image_HWC)])
  hashes = np.asarray(table.hash)
  for number, rows in enumerate(others):
    for row in rows:
      assert (hashes[number] ^ np.uint64(row.hash)).item().bit_count() <= NEAR_BITS
      assert alike(table.thumb(number), np.frombuffer(row.thumb, np.uint8))
  pairs = [pair for pair in near_pairs(hashes) if alike(*map(table.thumb, pair))]
  # Two are copies of one photograph.
  assert [[paths[k].name for k in pair] for pair in pairs] == [["0692.jpg", "0732.jpg"]]


def changed(image_HWC):
  """A picture at half its size, compressed, in other light, in grey."""
  height, width = image_HWC.shape[:2]
  size = width // 2, height // 2
  yield cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA)
  yield cv2.imdecode(cv2.imencode(".jpg", image_HWC, [1, 30])[1], 1)
  yield cv2.convertScaleAbs(image_HWC, alpha=1.2, beta=-20)
  yield cv2.cvtColor(cv2.cvtColor(image_HWC, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
