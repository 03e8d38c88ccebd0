"""Earlier masks in a row of tokens: where they stand, and that no text moves."""

import functools

import numpy as np
import pytest

from input_pipeline import packing
from input_pipeline.conversation import encode_conversation, encode_prompt
from tests.input_pipeline import test_templates

IMAGE, J = 4, 2
TURNS = [
  ("user", "Which cup?"),
  ("assistant", "These [SEG] and [SEG]."),
  ("user", "Thanks."),
  ("assistant", "You are welcome."),
  ("user", "Only the left one."),
  ("assistant", "Sure [SEG]."),
]
encode = functools.partial(encode_conversation, num_image_tokens=IMAGE)
asked = functools.partial(encode_prompt, num_image_tokens=IMAGE)


def numbers(row):
  """Numbers of the earlier masks of a row, one for each of their tokens."""
  return ((row.image_slot_L[row.image_slot_L >= IMAGE] - IMAGE) // J).tolist()


def test_each_mask_follows_the_answer_that_made_it_but_the_last(tokenizer):
  row = encode(TURNS, tokenizer, slot_tokens=J)
  at = np.flatnonzero(row.image_slot_L >= IMAGE)
  assert row.image_slot_L[at].tolist() == [4, 5, 6, 7]
  assert (np.diff(at) == 1).all() and row.tokens_L[at[0] - 1] == tokenizer.ids.eos
  assert (row.tokens_L[at] == tokenizer.ids.im_patch).all()
  assert not row.loss_mask_L[at].any()


def test_no_text_is_cut_into_other_tokens(tokenizer):
  row = encode(TURNS, tokenizer, slot_tokens=J)
  plain = encode(TURNS, tokenizer)
  text = row.image_slot_L < IMAGE
  np.testing.assert_array_equal(row.tokens_L[text], plain.tokens_L)
  np.testing.assert_array_equal(row.loss_mask_L[text], plain.loss_mask_L)


def test_a_prompt_with_the_masks_of_its_answers_is_a_prefix_of_the_row(tokenizer):
  row = encode(TURNS, tokenizer, slot_tokens=J)
  shown = [(), (0, 1), ()]
  prompt = asked(TURNS[:5], tokenizer, shown=shown, slot_tokens=J)
  length = len(prompt.tokens_L)
  np.testing.assert_array_equal(prompt.tokens_L, row.tokens_L[:length])
  np.testing.assert_array_equal(prompt.image_slot_L, row.image_slot_L[:length])


def test_a_mask_before_the_first_question_follows_the_image(tokenizer):
  prompt = asked(TURNS[:1], tokenizer, shown=[(0,)], slot_tokens=J)
  at = np.flatnonzero(prompt.image_slot_L >= IMAGE)
  assert prompt.tokens_L[at[0] - 1] == tokenizer.ids.im_end
  assert prompt.prefix_length == at[0]
  plain = asked(TURNS[:1], tokenizer)
  text = prompt.image_slot_L < IMAGE
  np.testing.assert_array_equal(prompt.tokens_L[text], plain.tokens_L)


def test_masks_go_with_the_rounds_that_do_not_fit(tokenizer):
  whole = encode(TURNS, tokenizer, slot_tokens=J)
  row = encode(TURNS, tokenizer, slot_tokens=J, max_len=len(whole.tokens_L) - 1)
  assert row.dropped_rounds == 1 and row.dropped_targets == 2
  assert numbers(row) == []


def test_a_prompt_keeps_the_masks_of_the_questions_that_fit(tokenizer):
  """And their numbers, which are places of a table."""
  shown = [(0,), (1, 2), (3,)]
  whole = asked(TURNS[:5], tokenizer, shown=shown, slot_tokens=J)
  limit = len(whole.tokens_L) - 1
  row = asked(TURNS[:5], tokenizer, shown=shown, slot_tokens=J, max_len=limit)
  assert numbers(whole) == [0, 0, 1, 1, 2, 2, 3, 3]
  assert row.dropped_rounds == 1 and numbers(row) == [1, 1, 2, 2, 3, 3]


def test_their_tokens_count_towards_the_limit(tokenizer):
  plain = len(encode(TURNS, tokenizer).tokens_L)
  assert encode(TURNS, tokenizer, max_len=plain).dropped_rounds == 0
  row = encode(TURNS, tokenizer, slot_tokens=J, max_len=plain)
  assert row.dropped_rounds == 1


def test_masks_are_numbered_through_a_packed_row(tokenizer):
  rows = [encode(TURNS, tokenizer, slot_tokens=J) for _ in range(2)]
  joined = packing.join(rows, J)
  assert numbers(joined) == [0, 0, 1, 1, 3, 3, 4, 4]
  cut, first = joined.prefix_length, len(rows[0].tokens_L)
  text = joined.image_slot_L < IMAGE
  assert (joined.image_slot_L[:cut] == rows[0].image_slot_L[:cut]).all()
  assert not (joined.image_slot_L[first:][text[first:]] >= 0).any()


def test_a_conversation_without_a_picture_has_none(tokenizer):
  row = encode_conversation(TURNS[2:4], tokenizer, slot_tokens=J)
  assert (row.image_slot_L == -1).all()


@pytest.mark.parametrize("template", ["llama_3", "qwen2", "mistral", "gemma"])
def test_chat_templates_show_a_mask_after_the_end_of_its_answer(template, tmp_path):
  tokenizer = test_templates.chat_tokenizer(template, tmp_path)
  options = {"template": template, "system": ""}
  row = encode(TURNS, tokenizer, slot_tokens=J, **options)
  plain = encode(TURNS, tokenizer, **options)
  assert numbers(row) == [0, 0, 1, 1]
  at = np.flatnonzero(row.image_slot_L >= IMAGE)
  ends = np.flatnonzero(np.diff(row.loss_mask_L) < 0)
  assert at[0] == ends[0] + 1 and not row.loss_mask_L[at].any()
  text = row.image_slot_L < IMAGE
  np.testing.assert_array_equal(row.tokens_L[text], plain.tokens_L)
  prompt = asked(TURNS[:5], tokenizer, shown=[(), (0, 1), ()], slot_tokens=J, **options)
  length = len(prompt.tokens_L)
  np.testing.assert_array_equal(prompt.image_slot_L, row.image_slot_L[:length])
