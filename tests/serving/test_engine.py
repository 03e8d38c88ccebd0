"""Continuous batching of the real network: what one conversation would hear alone."""

import asyncio
import functools

import jax
import numpy as np
import pytest

from input_pipeline import mask_ops
from miras_jax.inference.predictor import Predictor, encoded
from tests.serving import real

pytest.importorskip("fastapi", reason="needs miras_jax[serve]")
from miras_jax.serving import asking  # noqa: E402
from miras_jax.serving.messages import Say  # noqa: E402
from miras_jax.serving.settings import Settings  # noqa: E402

TALKS = 3
CHOICES = [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.7, "top_p": 0.8}]


@functools.cache
def alone(state="none"):
  """Texts and masks of each conversation, one by one."""
  predictor = Predictor(real.loaded(state), max_new_tokens=real.NEW)
  chats = [predictor.start(picture) for picture in real.pictures(TALKS)]
  return [
    [chat.say(question, **choice) for question in real.QUESTIONS]
    for chat, choice in zip(chats, CHOICES, strict=True)
  ]


@functools.cache
def warm_service(slots, chunk=5, state="none"):
  settings = Settings(
    slots=slots, chunk=chunk, read=20, max_new_tokens=real.NEW, timeout=60
  )
  service = asking.Service.of(real.loaded(state), settings)
  service.engine.warm()
  service.engine.start()
  return service


async def converse(service, picture, choice, delay=0.0):
  await asyncio.sleep(delay)
  talk = await service.new_talk(encoded(picture)[0])
  say = [Say(text=question, **choice) for question in real.QUESTIONS]
  return [await asking.answer(service, talk, each) for each in say]


def together(service):
  """All conversations at a time, each begun a little after the one before."""

  async def all_of_them():
    pairs = zip(real.pictures(TALKS), CHOICES, strict=True)
    return await asyncio.gather(
      *(converse(service, p, c, 0.02 * k) for k, (p, c) in enumerate(pairs))
    )

  return asyncio.run(all_of_them())


def assert_same(turns, replies):
  assert [turn.text for turn in turns] == [reply.text for reply in replies]
  for turn, reply in zip(turns, replies, strict=True):
    assert turn.num_seg == reply.num_seg
    assert [mask.span for mask in turn.masks] == [mask.span for mask in reply.masks]
    for kept, mask in zip(turn.masks, reply.masks, strict=True):
      assert abs(kept.iou - mask.iou) < 1e-4
      assert (mask_ops.decode_rle(kept.rle) != mask.array).mean() < 1e-3


@pytest.mark.parametrize("slots", [1, 2], ids="{} rows".format)
def test_conversations_beside_others_hear_what_they_hear_alone(slots):
  assert any(reply.masks for replies in alone() for reply in replies)
  for turns, replies in zip(together(warm_service(slots)), alone(), strict=True):
    assert_same(turns, replies)


def test_earlier_masks_are_those_that_the_conversation_alone_sees():
  state = "both"
  service = warm_service(2, state=state)
  before = dict(service.engine.generator.compiled)
  for turns, replies in zip(together(service), alone(state), strict=True):
    assert_same(turns, replies)
  counts = [sum(bool(reply.masks) for reply in replies) for replies in alone(state)]
  assert max(counts) > 1
  assert dict(service.engine.generator.compiled) == before


def test_a_mask_that_came_with_a_message_is_seen_by_later_ones():
  """As in Python, where `refers_to` counts it too; here answers' masks alone."""
  picture, (ask, *later), state = real.pictures(1)[0], real.QUESTIONS, "both"
  mask = np.zeros(picture.shape[:2], bool)
  mask[:10, :10] = True
  chat = Predictor(real.loaded(state), max_new_tokens=real.NEW).start(picture)
  expected = [chat.say(ask, mask=mask), *(chat.say(text) for text in later)]
  expected.append(chat.say(ask, refers_to=1))
  service = warm_service(2, state=state)

  async def converse():
    talk = await service.new_talk(encoded(picture)[0])
    first = Say(text=ask, mask=mask_ops.encode_rle(mask))
    says = [first, *(Say(text=text) for text in later), Say(text=ask, refers_to=0)]
    return [await asking.answer(service, talk, say) for say in says]

  assert_same(asyncio.run(converse()), expected)
  assert expected[0].masks and any(reply.masks for reply in expected[1:])


def test_warm_rows_compile_nothing_more():
  service = warm_service(2)
  generator = service.engine.generator
  before = dict(generator.compiled)
  together(service)
  assert dict(generator.compiled) == before


def test_what_is_pointed_at_counts_for_its_own_row_only():
  picture = real.pictures(1)[0]
  chat = Predictor(real.loaded(), max_new_tokens=real.NEW).start(picture)
  mask = np.zeros(picture.shape[:2], bool)
  mask[:10, :10] = True
  pointed = {"box": [2, 2, 12, 12], "points": [(5, 5, True)]}
  expected = [chat.say(text, mask=mask, **pointed) for text in real.QUESTIONS]
  pointed["mask"] = mask_ops.encode_rle(mask)
  service = warm_service(2)

  async def both():
    talk = await service.new_talk(encoded(picture)[0])
    other = asyncio.create_task(converse(service, real.pictures(2)[1], CHOICES[1]))
    pointing = [Say(text=text, **pointed) for text in real.QUESTIONS]
    return [await asking.answer(service, talk, say) for say in pointing], await other

  turns, other = asyncio.run(both())
  assert any(turn.masks for turn in turns)
  assert_same(turns, expected)
  assert_same(other, alone()[1])


def test_a_mask_that_is_given_is_read_before_its_question():
  picture, state = real.pictures(1)[0], "tokens"
  chat = Predictor(real.loaded(state), max_new_tokens=real.NEW).start(picture)
  mask = np.zeros(picture.shape[:2], bool)
  mask[:10, :10] = True
  first, second, _ = real.QUESTIONS
  expected = [chat.say(first), chat.say(second, mask=mask)]
  service = warm_service(2, state=state)

  async def both():
    talk = await service.new_talk(encoded(picture)[0])
    says = Say(text=first), Say(text=second, mask=mask_ops.encode_rle(mask))
    return [await asking.answer(service, talk, say) for say in says]

  assert_same(asyncio.run(both()), expected)


def test_an_answer_that_nobody_waits_for_leaves_its_row_to_others():
  service = warm_service(1, chunk=1)

  async def leave_and_ask():
    left = await service.new_talk(encoded(real.pictures(3)[2])[0])
    told = asking.events(service, left, Say(text=real.QUESTIONS[0], stream=True))
    while (await anext(told))[0] != "text":
      pass
    await told.aclose()
    assert left.turns == [] and not left.answering
    picture = real.pictures(1)[0]
    again = await asking.answer(service, left, Say(text=real.QUESTIONS[0]))
    return again, await converse(service, picture, CHOICES[0])

  _, turns = asyncio.run(leave_and_ask())
  assert_same(turns, alone()[0])


def test_a_device_that_fails_is_said_and_the_next_question_is_answered():
  service = warm_service(2)
  session = service.engine.session

  def fails(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

  session.go_on = fails
  with pytest.raises(asking.Refusal, match="the model failed") as caught:
    asyncio.run(converse(service, real.pictures(1)[0], {}))
  assert caught.value.status == 500
  turns = asyncio.run(converse(service, real.pictures(1)[0], {}))
  assert_same(turns, alone()[0])


def test_rows_keep_what_they_hold_until_another_needs_them():
  service = warm_service(2)
  images = lambda: service.metrics.images._value.get()  # noqa: E731
  before = images()
  asyncio.run(converse(service, real.pictures(1)[0], {}))
  assert images() - before == 1  # three turns, one encoding
  assert isinstance(alone()[0][0].masks, tuple) and np.isfinite(before)
