"""Records as examples: what is defective is named and weighs nothing."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.conversation import plain_texts
from input_pipeline.examples import Examples, empty_example, make_masks
from input_pipeline.mask_ops import encode_rle
from input_pipeline.pipeline import DataConfig
from input_pipeline.prist import read_dataset
from input_pipeline.tokenizer import train_bpe
from miras_jax.errors import UserError
from tests.input_pipeline.fake_records import (
  CFG,
  HEIGHT,
  WIDTH,
  Source,
  make,
  records,
  take,
  turns,
)
from tests.shared_data import DATA, needs_data


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
def test_a_defective_record_is_named_once_and_weighs_nothing(tokenizer, cache, threads):
  lines = []
  pipeline = make(
    Source(8, bad=(5,)),
    tokenizer,
    cache=cache,
    num_threads=threads,
    report=lines.append,
  )
  batches = take(pipeline, 6)
  pipeline.close()
  assert lines == ["train.json:5: no such file (trains with weight zero)"]
  assert pipeline.zero_weight == 3 and list(pipeline.problems.by_index) == [5]
  for batch in batches:
    weightless_B = ~batch["loss_mask"].any(1) & ~batch["seg_valid"].any(1)
    np.testing.assert_array_equal(weightless_B, batch["record"] == 5)


def test_defective_records_do_not_change_the_order_of_the_others(tokenizer):
  good = records(take(make(Source(8), tokenizer), 6))
  assert records(take(make(Source(8, bad=(1, 5)), tokenizer), 6)) == good


def test_defects_go_to_the_log_when_nobody_asks(tokenizer, caplog):
  pipeline = make(Source(4, bad=(1,)), tokenizer, report=None)
  next(pipeline)
  assert [r.getMessage() for r in caplog.records] == [
    "train.json:1: no such file (trains with weight zero)"
  ]


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
