"""Conversations of a real tiny model whose language model reads earlier masks."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.slots import fill
from miras_jax.inference import memory
from miras_jax.inference.conversation import prompt_of
from miras_jax.inference.predictor import Predictor
from miras_jax.inference.rollout import Forced, Rollout
from tests import tiny_loaded
from tests.evaluation.test_state import LEFT, PART, RIGHT, record, rle
from tests.inference.test_rollout import JOBS, NEW, views
from tests.inference.test_state import ASKED, PIXELS, run_chat
from tests.inference.test_state import LEFT as LEFT_HALF

LOADED = tiny_loaded.loaded("tokens")
STATES = ["tokens", "both"]


def said(loaded, jobs, batch_size, **options):
  generator = loaded.generator(NEW)
  return Rollout(loaded, generator, views, batch_size=batch_size, **options).run(jobs)


def assert_same(ours, theirs):
  for mine, other in zip(ours, theirs, strict=True):
    assert [a.text for a in mine] == [a.text for a in other]
    for a, b in zip(mine, other, strict=True):
      np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)


def test_a_batch_says_what_each_conversation_says_alone():
  loaded = tiny_loaded.loaded("both")
  assert_same(said(loaded, JOBS, 4), said(loaded, JOBS, 1))


def test_what_is_seen_of_masks_is_another_answer_later_and_none_before():
  seen, blind = said(LOADED, JOBS, 4), said(LOADED, JOBS, 4, earlier=False)
  job = 1  # of three turns
  np.testing.assert_allclose(seen[job][0].logits, blind[job][0].logits, atol=1e-5)
  later = zip(seen[job][1:], blind[job][1:], strict=True)
  assert any(
    a.text != b.text or np.abs(a.logits - b.logits).max(initial=0) > 1e-4
    for a, b in later
  )


def test_a_batch_shows_each_mask_after_its_answer():
  generator, prompts = LOADED.generator(NEW), []
  new_session = generator.session

  def session(*args):
    made = new_session(*args)
    ask = made.ask
    made.ask = lambda asked, slots: [prompts.extend(asked), ask(asked, slots)]
    return made

  generator.session = session
  answers = Rollout(LOADED, generator, views, batch_size=1).run(JOBS[1:2])[0]
  assert len(answers[0].logits)
  at = np.flatnonzero(prompts[1].marks)
  assert prompts[0].marks is None
  assert prompts[1].tokens[at[0] - 1] == LOADED.tokenizer.ids.eos


def conversation(loaded=LOADED):
  return Predictor(loaded, max_new_tokens=NEW).start(PIXELS)


def last(talk):
  """(text, predicted IoUs) of the last reply."""
  reply = talk.replies[-1]
  return reply.text, np.array([mask.iou for mask in reply.masks])


def assert_replies_alike(talk, other):
  (text, ious), (same, expected) = last(talk), last(other)
  assert text == same and len(ious)
  np.testing.assert_allclose(ious, expected, atol=1e-5)


def test_a_mask_of_the_users_is_read_before_the_question():
  talk, other = conversation(), conversation()
  talk.remember(LEFT_HALF)
  assert talk.say(ASKED).masks[0].iou != other.say(ASKED).masks[0].iou


def befores(talk):
  return [mask.slot.before for mask in talk.earlier]


def test_masks_come_before_the_question_after_their_answer_or_with_their_own():
  talk = conversation()
  talk.remember(LEFT_HALF)
  masks = len(talk.say(ASKED).masks)
  assert masks and befores(talk) == [0] + [1] * masks
  more = len(talk.say(ASKED, mask=LEFT_HALF).masks)
  talk.remember(LEFT_HALF)
  assert befores(talk) == [0] + [1] * (masks + 1) + [2] * (more + 1)


def test_a_mask_that_outlives_its_turn_comes_before_the_next_question():
  talk = conversation()
  talk.say(ASKED)
  talk.remember(LEFT_HALF)
  talk.undo()
  assert befores(talk) == [0]


def test_another_mask_in_the_same_place_is_read_anew():
  """The tokens' ids are the same: what they stand for tells them apart."""
  talk, other = conversation(), conversation()
  talk.remember(LEFT_HALF)
  talk.say(ASKED)
  talk.reset()
  for each in (talk, other):
    each.remember(~LEFT_HALF)
    each.say(ASKED)
  assert_replies_alike(talk, other)


def test_what_is_kept_of_a_conversation_is_what_a_new_one_reads():
  talk, other = conversation(), conversation()
  for text in (ASKED, "which one", ASKED):
    talk.say(text)
  other.turns, other.replies = talk.turns[:-2], talk.replies[:-1]
  other.earlier = [mask for mask in talk.earlier if mask.turn < 2]
  other.say(ASKED)
  assert_replies_alike(talk, other)


def test_masks_that_are_the_same_are_not_read_again_and_others_are():
  generator = LOADED.generator(NEW)
  batch = {k: v[None] for k, v in views(0).items()}
  session = generator.session(generator.encode(batch), LOADED.data.max_len)
  read = []
  for cells in (9, 9, 200):
    slot = memory.Slot(np.full((LOADED.data.slot_side,) * 2, cells, np.uint8))
    prompt = prompt_of(
      [("user", ASKED)],
      LOADED.tokenizer,
      LOADED.data,
      shown=memory.shown([slot], LOADED.data),
    )
    before = session.read_tokens
    session.ask([prompt], memory.stack([[slot]], LOADED.data))
    read.append(session.read_tokens - before)
  first, same, other = read
  at = np.flatnonzero(prompt.marks)
  assert first == len(prompt.tokens) and same == 1
  assert other == len(prompt.tokens) - at[0] and len(at) == LOADED.data.slot_tokens


def test_more_masks_than_slots_are_shown_without_the_oldest():
  slots = [memory.Slot(np.full((2, 2), n, np.uint8), before=n) for n in range(5)]
  shown = memory.shown(slots, LOADED.data)
  assert [mask.before for mask in shown] == [2, 3, 4]
  assert len({mask.mark for mask in shown}) == 3
  assert memory.shown(slots, tiny_loaded.loaded("dense").data) == []


def test_the_mask_that_is_meant_is_shown_where_stack_has_it():
  slots = [memory.Slot(np.full((2, 2), n, np.uint8), before=n) for n in range(5)]
  shown = memory.shown(slots, LOADED.data, 1)
  assert [mask.before for mask in shown] == [1, 3, 4]


def test_the_same_mask_of_the_users_and_of_the_models_are_two():
  cells = np.ones((2, 2), np.uint8)
  slots = [memory.Slot(cells, origin) for origin in range(len(fill.ORIGINS))]
  one, other = memory.shown(slots, LOADED.data)
  assert one.mark != other.mark


def test_a_mask_of_rounds_that_do_not_fit_is_read_where_it_is_named():
  turns = [(role, "long " * 30) for role in ("user", "assistant") * 4] + [("user", "?")]
  data = dataclasses.replace(LOADED.data, max_len=LOADED.data.max_len // 2)
  earlier = [memory.Slot(np.full((2, 2), n, np.uint8), before=1) for n in range(2)]
  marks = []
  for pick in (memory.NONE, 1):
    shown = memory.shown(earlier, data, pick)
    prompt = prompt_of(turns, LOADED.tokenizer, data, shown=shown)
    assert prompt.dropped_rounds > 1
    marks.append(set(prompt.marks.tolist()) - {0})
  assert marks == [set(), {shown[1].mark}]


def test_a_mask_stays_where_it_was_shown_when_turns_are_undone():
  talk = conversation()
  for _ in range(2):
    talk.say("which one")
  talk.remember(LEFT_HALF)
  talk.undo()
  talk.undo()
  assert [mask.slot.before for mask in talk.earlier if mask.turn < 0] == [0]


@pytest.mark.parametrize("state", STATES)
def test_chat_says_which_masks_are_in_rounds_that_do_not_fit(tmp_path, capsys, state):
  """The mask decoder of `both` sees them none the less."""
  loaded = tiny_loaded.loaded(state)
  short = dataclasses.replace(loaded.data, max_len=loaded.data.max_len // 2, slots=40)
  lines = [f"/mask {tmp_path}/left.png", *["which one"] * 5]
  run_chat(tmp_path, lines, loaded._replace(data=short))
  shown = capsys.readouterr().out
  assert "no longer fit" in shown
  assert ("(no longer seen: object" in shown) == (state == "tokens")


MANY = [rle(LEFT), rle(RIGHT), rle(PART), rle(LEFT), rle(RIGHT)]


@pytest.mark.parametrize("state", STATES)
def test_masks_of_a_long_dialogue_are_read_in_parts_as_in_one(state):
  """The tiny model has room for two masks a row, and for three earlier ones."""
  loaded, talk = tiny_loaded.loaded(state), record(masks=MANY[:4])
  parts = Forced(loaded, views, batch_size=2).masks({0: talk})[0]
  roomy = loaded._replace(data=dataclasses.replace(loaded.data, max_masks=4))
  whole = Forced(roomy, views, batch_size=1).masks({0: talk})[0]
  for one, other in zip(parts, whole, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("state", STATES)
def test_masks_of_a_dialogue_are_seen_unless_it_is_blind(state):
  loaded, talk = tiny_loaded.loaded(state), record(masks=MANY[:2])
  seen = Forced(loaded, views, batch_size=1).masks({0: talk})[0]
  blind = Forced(loaded, views, batch_size=1, earlier=False).masks({0: talk})[0]
  np.testing.assert_allclose(seen[0], blind[0], atol=1e-5)
  assert np.abs(seen[1] - blind[1]).max() > 1e-4


def test_no_mask_of_a_long_dialogue_is_read_before_it_is_made():
  """The third part of two masks begins with the second slot of three."""
  masks = [rle(LEFT)] * 6
  made = {}
  for changed in (None, 2, 4):
    given = [rle(PART) if k == changed else mask for k, mask in enumerate(masks)]
    forced = Forced(LOADED, views, batch_size=3)
    made[changed] = forced.masks({0: record(masks=given)})[0]
  np.testing.assert_array_equal(made[None][4], made[4][4])
  assert (made[None][4] != made[2][4]).any()
