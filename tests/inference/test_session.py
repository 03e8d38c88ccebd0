"""Turns read their new tokens only and say what reading everything again would say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.errors import UserError
from miras_jax.inference import generator as generator_lib
from miras_jax.inference.conversation import Prompt
from miras_jax.inference.sampling import Sampling, pick
from tests.inference.test_generate import IDS, NEW, Ids, model_and_params, prompts, tiny

LONG = 96
ALL = Ids(eos=-1)  # no answer ends early


@functools.cache
def generator():
  model, params = model_and_params()
  return generator_lib.Generator(model, params, ALL, max_new_tokens=NEW, max_masks=2)


@functools.cache
def encoded():
  return generator().encode(prompts(tiny(), (9, 14)))


def first_prompt(length, seed):
  """A prompt whose image comes first."""
  tokens = np.random.default_rng(seed).integers(3, 60, length).astype(np.int32)
  slots = np.full(length, -1, np.int32)
  slots[1 : 1 + tiny().num_image_tokens] = np.arange(tiny().num_image_tokens)
  return Prompt(tokens, slots)


def longer(prompt, *parts):
  """The prompt with more tokens of text."""
  tokens = np.concatenate([prompt.tokens, *parts]).astype(np.int32)
  slots = np.pad(prompt.image_slot, (0, len(tokens) - len(prompt.tokens)), "constant",
                 constant_values=-1)  # fmt: skip
  return Prompt(tokens, slots)


def session():
  return generator().session(encoded(), LONG)


def said(out, b=0):
  return np.asarray(out["tokens"][b, : int(out["num_tokens"][b])])


@functools.cache
def three_turns():
  """(a session after three turns, its last prompts and result)."""
  talk, asked = session(), [first_prompt(9, 1), first_prompt(14, 2)]
  out = talk.turn(asked)
  for turn in range(2):
    asked = [
      longer(p, said(out, b), [5 + turn, 9, 30 + b][: 2 + b])
      for b, p in enumerate(asked)
    ]
    read_before = talk.read_tokens
    out = talk.turn(asked)
  return talk, asked, out, talk.read_tokens - read_before


def test_the_third_turn_says_what_a_fresh_session_says():
  _, asked, out, _ = three_turns()
  fresh = session().turn(asked)
  np.testing.assert_array_equal(out["tokens"], fresh["tokens"])
  np.testing.assert_allclose(out["states"], fresh["states"], atol=1e-4)
  np.testing.assert_allclose(out["mask_logits"], fresh["mask_logits"], atol=1e-4)


def test_a_turn_reads_only_what_was_not_said_yet():
  # The new tokens of the two questions, and the last of each answer before.
  assert three_turns()[3] == 2 + 3 + 2


def test_rows_of_other_lengths_do_not_disturb_each_other():
  _, asked, out, _ = three_turns()
  alone = session().turn([asked[0], None])
  np.testing.assert_array_equal(said(out), said(alone))


def test_a_row_that_says_nothing_keeps_its_conversation():
  talk = session()
  first = [first_prompt(9, 1), first_prompt(14, 2)]
  out = talk.turn(first)
  following = [longer(p, said(out, b), [7, 8]) for b, p in enumerate(first)]
  talk.turn([following[0], None])
  before = talk.read_tokens
  late = talk.turn([None, following[1]])
  assert talk.read_tokens - before == 2 + 1
  np.testing.assert_array_equal(said(late, 1), said(session().turn(following), 1))


def test_an_undone_turn_is_as_if_it_had_not_been():
  talk = session()
  first = first_prompt(9, 1)
  out = talk.turn([first, None])
  question = longer(first, said(out), [11, 12, 13])
  talk.turn([longer(first, said(out), [21, 22, 23]), None])
  again = talk.turn([question, None])
  np.testing.assert_array_equal(said(again), said(session().turn([question, None])))


def test_turns_after_the_first_compile_nothing():
  three_turns()
  before = dict(generator().compiled)
  talk = session()
  out = talk.turn([first_prompt(8, 5), first_prompt(13, 6)])
  talk.turn([longer(first_prompt(8, 5), said(out), [3, 4]), None])
  assert generator().compiled == before


def test_an_answer_in_parts_is_the_whole_answer():
  whole = session().turn([first_prompt(9, 1), first_prompt(14, 2)])
  talk = session()
  talk.ask([first_prompt(9, 1), first_prompt(14, 2)])
  for limit in (1, 3, NEW):
    talk.go_on(limit)
  np.testing.assert_array_equal(talk.answers()["tokens"], whole["tokens"])


def test_a_prompt_in_parts_is_the_whole_prompt_and_stops_nobody():
  whole = session().turn([first_prompt(60, 1), first_prompt(14, 2)])
  talk = session()
  talk.ask([None, first_prompt(14, 2)])
  talk.begin([first_prompt(60, 1), None])
  for _ in range(2):
    talk.read_on(25)
    assert talk.is_reading(0)
    talk.go_on(2)
  assert [len(tokens) for tokens, _ in talk.progress()] == [0, 4]
  talk.read_on(25)
  talk.go_on(NEW)
  np.testing.assert_array_equal(talk.answers()["tokens"], whole["tokens"])


def test_what_is_read_at_a_time_may_be_of_several_prompts():
  prompts_ = [first_prompt(9, 1), first_prompt(60, 2)]
  talk = session()
  talk.begin(prompts_)
  talk.read_on(25)
  assert (talk.is_reading(0), talk.is_reading(1)) == (False, True)
  assert talk.read_tokens == 25
  talk.read_on(100)
  talk.go_on(NEW)
  whole = session().turn(prompts_)
  np.testing.assert_array_equal(talk.answers()["tokens"], whole["tokens"])


def test_a_prompt_that_is_given_up_half_read_is_read_on_later():
  talk, prompt = session(), first_prompt(60, 1)
  talk.begin([prompt, None])
  talk.read_on(25)
  talk.stop(0)
  talk.read_on(25)
  assert talk.read_tokens == 25
  out = talk.turn([prompt, None])
  assert talk.read_tokens == 60
  np.testing.assert_array_equal(said(out), said(session().turn([prompt, None])))


@pytest.mark.parametrize("count", [1, 33, 257, 330, 641, 1000, 1900])
def test_little_of_a_long_prompt_is_padding(count):
  talk = generator_lib.Session(generator(), encoded(), 2000)
  width = talk._bucket(count)
  assert width >= count and (width <= max(32, 2 * count) and count <= 256 or
                             width < 1.25 * count + 1)  # fmt: skip


def test_a_device_without_room_says_what_would_fit(monkeypatch):
  def full(*_):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

  monkeypatch.setattr(jax, "jit", lambda *_, **__: full)
  model, params = model_and_params()
  small = generator_lib.Generator(model, params, ALL)
  with pytest.raises(UserError, match="does not fit.*int8.*--mesh"):
    small.encode(prompts(tiny(), (9, 14)))


def test_a_prompt_past_the_cache_is_an_error():
  with pytest.raises(ValueError, match="97 tokens, the limit is 96"):
    session().turn([first_prompt(97, 1), None])


LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.2]] * 400))


def picked(temperature, top_p, step=0):
  choices = [(temperature, top_p, seed) for seed in range(400)]
  return np.asarray(pick(LOGITS, Sampling.of(choices), jnp.full(400, step)))


def test_temperature_zero_takes_the_likeliest():
  assert not picked(0.0, 1.0).any()


def test_tokens_are_drawn_by_their_probability():
  shares = np.bincount(picked(1.0, 1.0), minlength=3) / 400
  np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.08)


def test_top_p_leaves_the_unlikely_out():
  assert set(picked(1.0, 0.7)) == {0, 1}
  assert set(picked(1.0, 0.1)) == {0}


def test_the_same_seed_and_step_draw_the_same():
  np.testing.assert_array_equal(picked(1.0, 1.0), picked(1.0, 1.0))
  assert (picked(1.0, 1.0) != picked(1.0, 1.0, step=1)).any()


def test_ids_are_data():
  """Other token ids take the same programs."""
  three_turns()
  before = dict(generator().compiled)
  generator().ids = IDS
  session().turn([first_prompt(9, 1), first_prompt(14, 2)])
  generator().ids = ALL
  assert generator().compiled == before
