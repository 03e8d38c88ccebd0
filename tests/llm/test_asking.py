"""Replies without their form are asked for again; each try is stored on its own."""

import json
from typing import Literal

import pytest

from miras_jax.llm import asking, forms
from miras_jax.llm.client import Client
from miras_jax.llm.request import Message, Request
from miras_jax.llm.store import Store
from tests.llm.endpoint import Do, serve

pytest.importorskip("openai", reason="needs the extra llm")
pytest.importorskip("pydantic", reason="needs the extra llm")

MODEL = forms.make("Scores", {"reason": str, "score": Literal[1, 2, 3, 4, 5]})
GOOD = '{"reason": "so", "score": 4}'
VALUE = {"reason": "so", "score": 4}


@pytest.fixture
def ask(tmp_path):
  """(Outcome, bodies sent) of a question that is answered by these in turn."""
  store = Store(tmp_path / "replies.sqlite")

  def run(*replies, repairs=2):
    left = iter(replies)
    request = Request("m", (Message("user", ("rate",)),), form=forms.schema(MODEL))
    with serve(lambda body, n: next(left)) as (url, endpoint):
      client = Client(url, store, attempts=1)
      outcome = asking.ask(client, request, MODEL, repairs)
      again = asking.ask(Client("", store), request, MODEL, repairs)
    assert again == outcome  # offline, from the store
    return outcome, endpoint.seen

  return run


@pytest.mark.parametrize(
  "text",
  [
    GOOD,
    f"```json\n{GOOD}\n```",
    f"<think>perhaps {{2}} or {GOOD.replace('4', '2')}?</think>Here: {GOOD} Bye.",
  ],
  ids=["plain", "fence", "thoughts"],
)
def test_object_is_found_in_what_stands_around_it(ask, text):
  outcome, sent = ask(Do.say(text))
  assert (outcome.value, outcome.flaws, len(sent)) == (VALUE, (), 1)


@pytest.mark.parametrize(
  "text, reason",
  [
    ("I like it.", "there is no JSON object in it"),
    (None, "there is no JSON object in it"),
    (GOOD[:-1], "the JSON object in it is broken"),
    (GOOD.replace("4", "9"), "score: Input should be 1, 2, 3, 4 or 5"),
    (GOOD.replace("4", '"4"'), "score: Input should be 1, 2, 3, 4 or 5"),
    ('{"score": 4}', "reason: Field required"),
    ("{" * 10_000, "the JSON object in it is broken"),
  ],
)
def test_broken_reply_is_quoted_and_asked_for_again(ask, text, reason):
  outcome, sent = ask(Do.say(text), Do.say(GOOD))
  assert (outcome.value, outcome.flaws) == (VALUE, ("broken",))
  quoted, told = sent[1]["messages"][1:]
  assert quoted["role"] == "assistant"
  assert quoted["content"]
  assert f"cannot be read: {reason}" in told["content"]
  assert (outcome.tokens_in, outcome.tokens_out) == (20, 10)


def test_half_reply_is_asked_for_with_room(ask):
  outcome, sent = ask(Do.say(GOOD[:9], finish_reason="length"), Do.say(GOOD))
  assert (outcome.value, outcome.flaws) == (VALUE, ("half",))
  assert [body["max_tokens"] for body in sent] == [600, 1200]
  assert sent[0]["messages"] == sent[1]["messages"]


def test_whole_object_is_taken_though_the_reply_was_cut_after_it(ask):
  outcome, _ = ask(Do.say(GOOD + " Also", finish_reason="length"))
  assert outcome.value == VALUE


@pytest.mark.parametrize(
  "answer", [Do.refuse(), Do.say("", finish_reason="content_filter")]
)
def test_refusal_is_an_answer(ask, answer):
  outcome, sent = ask(answer)
  assert (outcome.value, outcome.problem, len(sent)) == (None, "refused", 1)


def test_reply_that_stays_broken_is_given_up(ask):
  outcome, sent = ask(*[Do.say("no")] * 3)
  assert (outcome.value, outcome.problem) == (None, "broken")
  assert len(sent) == 3
  assert len({json.dumps(body) for body in sent}) == 3
