"""Augmentation keeps conversation and mask true and is the same wherever it runs."""

import dataclasses

import cv2
import numpy as np
import pytest

from input_pipeline import augment as lib
from input_pipeline import image_ops, mask_ops, packing
from input_pipeline.augment import Augment, Chance
from input_pipeline.examples import Examples
from input_pipeline.mixture import mix
from input_pipeline.source import Draw
from tests.input_pipeline.audit.made import LEFT, RIGHT, Made, conversation, mask, photo
from tests.input_pipeline.fakes import CFG, Source, assert_equal, make, take

ALL = Augment(flip=1, crop=1, scale=1, colour=1)
# A colour that no photograph has, so that a mask can be found again from the pixels.
KEY = (255, 0, 255)


def keyed(*places, turns=None, name="cup"):
  """A conversation whose masks are just the pixels of colour KEY, one each."""
  image_HWC = np.minimum(photo(1), 180)
  for place in places:
    image_HWC[place] = KEY
  targets = [(name, mask(place)) for place in places]
  return conversation(image=image_HWC, targets=targets, turns=turns)


def opened(record):
  """(picture, masks) of a record."""
  image_HWC = image_ops.decode_image(record.image)
  return image_HWC, [mask_ops.decode_rle(rle) for _, rle in record.targets]


def one(record, options, epoch=0):
  (changed,) = lib.augmented([record], options, epoch)
  return changed


@pytest.mark.parametrize("kind", ["flip", "crop", "scale"])
def test_masks_move_with_the_pixels(kind):
  record, sizes = keyed(LEFT, (slice(45, 52), slice(40, 70))), set()
  for epoch in range(20):
    image_HWC, masks = opened(one(record, Augment(**{kind: 1}), epoch))
    np.testing.assert_array_equal(sum(masks), (image_HWC == KEY).all(axis=2))
    assert [m.sum() for m in masks] == [30 * 26, 7 * 30]  # whole
    sizes.add(image_HWC.shape)
  assert len(sizes) == 1 if kind == "flip" else len(sizes) > 10


def test_a_flip_exchanges_left_and_right():
  record = keyed(LEFT)
  (before,), (after,) = (opened(r)[1] for r in (record, one(record, Augment(flip=1))))
  np.testing.assert_array_equal(after, before[:, ::-1])


@pytest.mark.parametrize(
  "texts",
  [
    ("What is left of the dog?", "A cup: [SEG].", "cup"),
    ("Where is it?", "On the RIGHT: [SEG].", "cup"),
    ("Where is it?", "Here: [SEG].", "leftmost cup"),
    ("Wo ist die linke Tasse?", "Hier: [SEG].", "Tasse"),
    ("What does the sign say?", "Stop [SEG].", "sign"),
  ],
)
def test_no_flip_where_a_text_or_a_name_tells_a_side(texts):
  question, answer, name = texts
  record = keyed(LEFT, turns=(("user", question), ("assistant", answer)), name=name)
  for epoch in range(10):
    assert one(record, Augment(flip=1), epoch) == record


def test_no_crop_or_scale_where_a_text_tells_a_place_or_a_number():
  for question in ("What is in the corner?", "Which is largest?", "How many cups?"):
    turns = (("user", question), ("assistant", "[SEG]"))
    record = keyed(LEFT, turns=turns)
    assert one(record, Augment(crop=1, scale=1)) == record


def test_a_crop_keeps_a_margin_and_its_share():
  record, least = keyed((slice(20, 40), slice(30, 50))), Augment(crop=1, crop_share=0.5)
  shapes = []
  for epoch in range(60):
    image_HWC, (mask_HW,) = opened(one(record, least, epoch))
    rows, columns = (np.flatnonzero(mask_HW.any(axis=k)) for k in (1, 0))
    ends = rows[0], columns[0], image_HWC.shape[0] - 1 - rows[-1]
    assert min(*ends, image_HWC.shape[1] - 1 - columns[-1]) >= 2  # a tenth of 20
    shapes.append(image_HWC.shape[:2])
  assert (np.min(shapes, axis=0) >= [30, 40]).all()
  assert np.ptp(shapes, axis=0).min() > 15


def test_a_crop_of_a_conversation_about_absence_has_an_empty_mask():
  record = conversation(targets=[("", mask())])
  image_HWC, (mask_HW,) = opened(one(record, Augment(crop=1)))
  assert image_HWC.shape[:2] == mask_HW.shape < (60, 80) and not mask_HW.any()


def test_a_target_as_large_as_the_picture_leaves_it_whole():
  whole = slice(0, 60), slice(0, 80)
  image_HWC, _ = opened(one(keyed(whole), Augment(crop=1)))
  assert image_HWC.shape == (60, 80, 3)


def colours(question):
  """(picture before, picture after) of other colours under a question."""
  record = keyed(LEFT, turns=(("user", question), ("assistant", "[SEG]")))
  return opened(record)[0], opened(one(record, Augment(colour=1)))[0]


def test_no_other_hue_where_a_colour_is_named():
  grey = np.full((8, 8, 3), 100, np.uint8)
  before, after = colours("Where is the red cup?")
  # Light changes all channels by one table, which no hue or saturation does.
  table = {}
  for old, new in zip(before.ravel().tolist(), after.ravel().tolist(), strict=True):
    assert table.setdefault(old, new) == new
  assert (before != after).any()
  np.testing.assert_array_equal(lib.recolour(grey, Chance(0, 0, "")), grey)


def test_nothing_is_recoloured_where_colour_and_light_are_named():
  before, after = colours("Is the dark cup red?")
  np.testing.assert_array_equal(before, after)


def test_hues_turn_by_at_most_ten_degrees():
  hsv_HWC = np.full((4, 4, 3), (100, 200, 200), np.uint8)
  image_HWC = cv2.cvtColor(hsv_HWC, cv2.COLOR_HSV2RGB_FULL)
  changed = [lib.recolour(image_HWC, Chance(0, e, "")) for e in range(40)]
  turned = {int(cv2.cvtColor(c, cv2.COLOR_RGB2HSV_FULL)[0, 0, 0]) for c in changed}
  assert (
    len(turned) > 5 and max(abs(t - 100) for t in turned) <= 9
  )  # 7 of 256, and roundings


def test_a_change_depends_on_seed_epoch_and_record_alone():
  record = keyed(LEFT)
  assert one(record, ALL, 3) == one(record, ALL, 3)
  others = [
    one(record, ALL, 4), one(record, dataclasses.replace(ALL, seed=1), 3),
    one(dataclasses.replace(record, id="other"), ALL, 3),
  ]  # fmt: skip
  images = [r.image for r in (one(record, ALL, 3), *others)]
  assert len(set(images)) == 4


def test_one_chance_is_not_another():
  drawn = [Chance(0, e, "r")("flip?") < 0.25 for e in range(2000)]
  assert 0.22 < np.mean(drawn) < 0.28
  pairs = [(Chance(0, e, "r")("a"), Chance(0, e, "r")("b")) for e in range(2000)]
  assert abs(np.corrcoef(np.transpose(pairs))[0, 1]) < 0.1


def test_conversations_that_share_a_row_share_the_picture_and_every_ban(tokenizer):
  plain, sided = keyed(LEFT), keyed(RIGHT, name="right cup")
  changed = lib.augmented([plain, plain], Augment(flip=1), 0)
  assert changed[0].image == changed[1].image != plain.image
  assert lib.augmented([plain, sided], Augment(flip=1), 0) == [plain, sided]


def test_a_defective_picture_or_mask_stays_for_its_reader_to_name(tokenizer):
  broken = dataclasses.replace(keyed(LEFT), image=b"no image")
  other = conversation(targets=[("cup", np.ones((5, 5), np.uint8))])
  examples = Examples(
    Made(broken, other), tokenizer, CFG, augment=ALL, report=lambda line: None
  )
  assert [int(examples[i]["seg_valid"].sum()) for i in (0, 1)] == [0, 0]
  assert "not an image" in str(examples.problems.by_index[0])
  assert "the image (60, 80)" in str(examples.problems.by_index[1])


def test_off_is_bit_identical(tokenizer):
  source = Source(6)
  plain, off = make(source, tokenizer), make(source, tokenizer, augment=Augment())
  assert_equal(take(plain, 5), take(off, 5))


def test_every_epoch_has_other_pictures_of_the_same_examples(tokenizer):
  source = Made(*map(conversation, range(4)), file="train")
  batches = take(make(source, tokenizer, augment=ALL), 3)
  by_record = [
    {int(r): b["image_sam"][k] for k, r in enumerate(b["record"])} for b in batches
  ]
  for record in range(4):
    first, second, third = (images[record] for images in by_record)
    assert (first != second).any() and (second != third).any()


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("threads", [0, 2])
def test_any_number_of_hosts_and_threads_sees_the_same_pictures(
  tokenizer, hosts, threads
):
  source = Made(*map(conversation, range(6)), file="train")
  alone = take(make(source, tokenizer, augment=ALL), 4)
  parts = [
    take(
      make(
        source, tokenizer, augment=ALL, host_index=h, host_count=hosts,
        num_threads=threads,
      ),
      4,
    )
    for h in range(hosts)
  ]  # fmt: skip
  together = [
    {key: np.concatenate([part[b][key] for part in parts]) for key in alone[b]}
    for b in range(4)
  ]
  assert_equal(together, alone)


def test_a_resumed_run_sees_what_it_would_have_seen(tokenizer):
  source = Made(*map(conversation, range(6)), file="train")
  first = make(source, tokenizer, augment=ALL)
  take(first, 4)
  again = make(source, tokenizer, augment=ALL, state=first.get_state())
  assert_equal(take(again, 3), take(first, 3))


def test_rows_of_several_conversations_are_augmented_as_one(tokenizer):
  cfg = dataclasses.replace(CFG, max_len=200, max_masks=4)
  pair = [dataclasses.replace(conversation(0), id=str(k)) for k in range(2)]
  source = Made(*pair, file="train")
  sizes = source.sizes(tokenizer, cfg.text_options())
  packed = packing.pack(source, sizes, limit=2, max_len=200, max_masks=4)
  example = Examples(packed, tokenizer, cfg, augment=Augment(flip=1))[Draw(0, 1)]
  plain = Examples(packed, tokenizer, cfg)[0]
  height, width = plain["valid_hw"]
  flipped = plain["masks"][:, :height, :width][..., ::-1]
  np.testing.assert_array_equal(example["masks"][:, :height, :width], flipped)
  assert int(example["seg_valid"].sum()) == 2


def test_what_is_kept_prepared_is_not_augmented(tokenizer):
  with pytest.raises(ValueError, match="cannot be augmented"):
    Examples(Source(2), tokenizer, CFG, cache=True, augment=ALL)


def test_a_small_source_of_a_mixture_shows_other_pictures_each_time(tokenizer):
  small = Made(conversation(0), file="small")
  large = Made(*map(conversation, range(1, 9)), file="large")
  batches = take(make(mix([small, large], [1, 1]), tokenizer, augment=ALL), 4)
  views = [b["image_sam"][k] for b in batches for k in np.flatnonzero(b["record"] == 0)]
  assert len(views) == 8
  assert len({view.tobytes() for view in views}) == 8
