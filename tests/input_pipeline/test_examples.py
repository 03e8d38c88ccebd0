"""One example: its row, views and masks; and what becomes of a defective record."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.conversation import encode_conversation, plain_texts
from input_pipeline.examples import DataConfig, Examples, empty_example, make_masks
from input_pipeline.mask_ops import encode_rle
from input_pipeline.prist import read_dataset
from input_pipeline.tokenizer import train_bpe
from miras_jax.errors import UserError
from tests.input_pipeline.fakes import (
  CFG,
  HEIGHT,
  WIDTH,
  Source,
  make,
  turns,
)
from tests.shared_data import DATA, needs_data


def test_example_is_padded_around_its_conversation(tokenizer):
  example = Examples(Source(5), tokenizer, CFG)[2]
  row = encode_conversation(turns(2), tokenizer, num_image_tokens=4)
  length = len(row.tokens_L)
  np.testing.assert_array_equal(example["tokens"][:length], row.tokens_L)
  assert (example["tokens"][length:] == tokenizer.ids.pad).all()
  assert example["segments"].sum() == length and example["segments"][:length].all()
  assert (example["image_slot"][length:] == -1).all()
  assert example["tokens"][example["seg_pos"][0]] == tokenizer.ids.seg
  assert list(example["seg_valid"]) == [1, 0]
  assert list(example["obj_pos"]) == [-1, -1]


def test_views_and_mask_share_the_sam_canvas(tokenizer):
  example = Examples(Source(5), tokenizer, CFG)[3]
  assert list(example["original_hw"]) == [HEIGHT, WIDTH]
  assert list(example["valid_hw"]) == [12, 16]
  assert (example["image_sam"][:12] == 3).all() and not example["image_sam"][12:].any()
  assert example["masks"][0, :4].all() and not example["masks"][0, 4:].any()
  assert not example["masks"][1].any()


@pytest.mark.parametrize(
  "source, reason",
  [
    (Source(1, answer="[SEG] [SEG] [SEG]", targets=3), "holds 3 [SEG], the limit is"),
    (Source(1, targets=2), "1 [SEG] in the answers but 2 targets"),
    (Source(1, answer="long " * 200 + "[SEG]"), "the limit is max_len=96"),
  ],
)
def test_record_past_a_limit_is_named(tokenizer, source, reason):
  lines = []
  next(make(source, tokenizer, report=lines.append))
  assert len(lines) == 1 and lines[0].startswith("train.json:0: ")
  assert reason in lines[0]


def test_image_that_does_not_decode_is_named(tokenizer):
  class Broken(Source):
    def load(self, i):
      return dataclasses.replace(super().load(i), image=b"not an image")

  lines = []
  next(make(Broken(1), tokenizer, report=lines.append))
  assert lines[0].startswith("train.json:0: not an image")


def test_mask_of_another_size_than_the_image_is_refused():
  targets = [("cup", encode_rle(np.ones((4, 4), np.uint8)))]
  with pytest.raises(UserError, match=r"mask of 'cup' is \(4, 4\)"):
    make_masks(targets, (8, 8), CFG)


def test_dropped_rounds_take_their_masks_along(tokenizer):
  class TwoRounds(Source):
    def load(self, i):
      record = super().load(i)
      first, last = np.zeros((2, HEIGHT, WIDTH), np.uint8)
      first[0], last[-1] = 1, 1
      return dataclasses.replace(
        record,
        turns=(*turns(0, "word " * 60 + "[SEG]"), *turns(1)),
        targets=(("first", encode_rle(first)), ("last", encode_rle(last))),
      )

  example = Examples(TwoRounds(1), tokenizer, CFG)[0]
  assert list(example["seg_valid"]) == [1, 0]
  assert example["masks"][0, HEIGHT - 1].all() and not example["masks"][0, 0].any()


def test_empty_example_keeps_one_token_visible(tokenizer):
  example = empty_example(tokenizer, CFG, record=7)
  assert example["segments"].sum() == 1 and example["record"] == 7
  assert example["valid_hw"].all() and example["original_hw"].all()


@pytest.mark.parametrize(
  "change", [{"view": "stretch"}, {"template": "x"}, {"max_masks": 0}, {"max_len": 4}]
)
def test_data_config_checks_itself(change):
  fields = {f: getattr(CFG, f) for f in CFG.__dataclass_fields__}
  with pytest.raises(ValueError, match=next(iter(change)).split("_")[0]):
    DataConfig(**(fields | change))


@needs_data
def test_each_record_of_the_malformed_folders_is_an_example_or_named():
  tokenizer = train_bpe(plain_texts(turns(0)), 400)
  cfg = DataConfig(
    max_len=512, max_masks=2, sam_size=16, aux_size=16, num_image_tokens=4
  )
  usable = 0
  for folder in sorted((DATA / "malformed").iterdir()):
    if not folder.is_dir():
      continue
    try:
      dataset = read_dataset(folder, "test")
    except UserError:
      continue  # the list itself is refused; the reader's own tests say how
    examples = Examples(dataset, tokenizer, cfg, report=lambda line: None)
    for i in range(len(dataset)):
      weighs = bool(examples[i]["loss_mask"].any())
      assert weighs == (i not in examples.problems.by_index), folder.name
      usable += weighs
  assert usable > 20


@pytest.mark.parametrize(
  "folder",
  [
    "53_image_token_typed_by_user",
    "54_seg_token_typed_by_user",
    "55_chat_markup_typed_by_user",
    "51_rtl_and_emoji",
  ],
)
@needs_data
def test_text_that_users_type_stays_data(folder):
  dataset = read_dataset(DATA / "malformed" / folder, "test")
  tokenizer = train_bpe(plain_texts(turns(0)), 400)
  cfg = dataclasses.replace(CFG, max_len=1024)
  example = Examples(dataset, tokenizer, cfg)[0]
  record = dataset[0]
  assert example["seg_valid"].sum() == len(record.targets) == 1
  assert (example["image_slot"] >= 0).sum() == cfg.num_image_tokens
  text = tokenizer.decode(example["tokens"][example["segments"] > 0])
  assert all(said in text for _, said in record.turns)


class NoPicture(Source):
  """A question about nothing that can be seen."""

  def __init__(self, size, **options):
    super().__init__(size, answer="It is a word.", targets=0, **options)
    self.image_ids = ("",) * size

  def load(self, i):
    return dataclasses.replace(super().load(i), image=b"", image_id="")


def test_a_record_without_a_picture_is_a_row_without_image_tokens(tokenizer):
  example = Examples(NoPicture(3), tokenizer, CFG)[2]
  said = encode_conversation(turns(2, "It is a word."), tokenizer)
  assert (example["image_slot"] == -1).all()
  assert example["segments"].sum() == len(said.tokens_L)
  assert example["loss_mask"].sum() == said.loss_mask_L.sum() > 0
  assert not example["image_aux"].any() and not example["seg_valid"].any()
  assert list(example["valid_hw"]) == [CFG.sam_size] * 2


def test_its_size_is_that_of_its_row(tokenizer):
  source = NoPicture(1)
  size = source.sizes(tokenizer, CFG.text_options())[0]
  row = Examples(source, tokenizer, CFG)[0]
  assert size.prefix + size.talk == row["segments"].sum()
  assert size.prefix == size.segs == 0


@pytest.mark.parametrize(
  "image_id, reason", [("", "has no picture but 1 masks"), ("a.png", "has no bytes")]
)
def test_a_mask_of_no_picture_is_named(tokenizer, image_id, reason):
  class Masked(Source):
    def load(self, i):
      return dataclasses.replace(super().load(i), image=b"", image_id=image_id)

  lines = []
  next(make(Masked(1), tokenizer, report=lines.append))
  assert lines[0].startswith("train.json:0: ") and reason in lines[0]


def test_a_lean_row_without_a_mask_has_no_view_for_sam(tokenizer):
  said = Source(2, answer="It is a word.", targets=0)
  whole, lean = (Examples(said, tokenizer, CFG, lean=lean)[1] for lean in (False, True))
  assert whole["image_sam"].any() and not lean["image_sam"].any()
  for name in whole.keys() - {"image_sam"}:
    np.testing.assert_array_equal(whole[name], lean[name], err_msg=name)


def test_a_lean_row_with_a_mask_is_whole(tokenizer):
  whole, lean = (
    Examples(Source(2), tokenizer, CFG, lean=lean)[1] for lean in (False, True)
  )
  for name, value in whole.items():
    np.testing.assert_array_equal(value, lean[name], err_msg=name)
