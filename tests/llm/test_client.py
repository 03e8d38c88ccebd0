"""The client against an endpoint that misbehaves: what passes, and what is one line."""

import socket

import pytest

from miras_jax.errors import UserError
from miras_jax.llm.client import MAX_BODY, Client, check_endpoint
from miras_jax.llm.request import Message, Request
from miras_jax.llm.store import Store
from tests.llm.endpoint import Do, serve

pytest.importorskip("openai", reason="needs the extra llm")
pytest.importorskip("tenacity", reason="needs the extra llm")

KEY = "sk-secret-0123456789"
ASKED = Request("m", (Message("user", ("hello",)),))


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def store(tmp_path):
  return Store(tmp_path / "replies.sqlite")


def client(url, store, **options):
  options = {"timeout": 0.5, "attempts": 3, "backoff": 0.0} | options
  return Client(url, store, **options)


def in_turn(*actions):
  """The n-th time a request comes, the n-th action."""
  return lambda body, n: actions[min(n, len(actions) - 1)]


@pytest.mark.parametrize(
  "trouble",
  [
    Do.error(429, "slow down"),
    Do.error(500),
    Do.error(503),
    Do.error(408),
    Do.sleep(1),
    Do.drop(),
    Do.trickle(),
    Do.trickle(500),
    Do.trickle(in_head=True),
    Do.flood(),
    Do.flood(400),
    Do.flood(307, Location="/v1/elsewhere"),
    Do.packed(" " * (MAX_BODY + 1)),
    Do.raw('{"choices": [', promised=100),
    Do.raw("<html>bad gateway</html>"),
    Do.raw('{"choices": []}'),
    Do.raw("[" * 100_000),
  ],
  ids=(
    "429 500 503 408 silence drop trickle slow_error slow_head flood error_flood"
    " redirect_flood bomb half html empty nested"
  ).split(),
)
def test_trouble_that_passes_is_tried_again(trouble, store):
  with serve(in_turn(trouble, trouble, Do.say("hi"))) as (url, endpoint):
    assert client(url, store).ask(ASKED).text == "hi"
    assert len(endpoint.seen) == 3


def test_trouble_that_stays_is_one_line_and_nothing_is_stored(store):
  with serve(in_turn(Do.error(500, "broken\nserver"))) as (url, endpoint):
    with pytest.raises(UserError, match="in 3 attempts.*500: broken server; what was"):
      client(url, store).ask(ASKED)
    assert len(endpoint.seen) == 3
  assert store.get(ASKED.key) is None


def test_endpoint_that_is_down_is_one_line(store):
  with socket.socket() as held:
    held.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=f"{url}: no sound answer .*refused"):
      client(url, store).ask(ASKED)


def test_retry_after_holds_everyone_back(store):
  waited = []
  with serve(in_turn(Do.error(429, Retry_After="7"), Do.say("hi"))) as (url, _):
    asking = client(url, store)
    asking.pace.rest = lambda seconds: waited.append(("all", seconds))
    asking.pace.sleep = lambda seconds: waited.append(("own", seconds))
    asking.ask(ASKED)
  assert waited == [("all", 7.0), ("own", 7.0)]


@pytest.mark.parametrize(
  "answer, said",
  [
    (Do.error(401, f"bad key {KEY}"), r"401: bad key \*\*\*; \$OPENAI_API_KEY is the"),
    (Do.error(404, "no model m"), "404: no model m; does --endpoint end in /v1"),
    (Do.error(400, "unknown field"), "400: unknown field; if it does not know a field"),
    (Do.error(429, "pay", "insufficient_quota"), "429: pay; what was answered is kept"),
  ],
)
def test_trouble_that_does_not_pass_is_said_at_once(answer, said, store):
  with serve(in_turn(answer)) as (url, endpoint):
    with pytest.raises(UserError, match=said) as error:
      client(url, store).ask(ASKED)
    assert len(endpoint.seen) == 1
  assert KEY not in str(error.value)


def test_missing_key_is_named(store, monkeypatch):
  monkeypatch.delenv("OPENAI_API_KEY")
  with serve(in_turn(Do.error(401))) as (url, endpoint):
    with pytest.raises(UserError, match=r"\$OPENAI_API_KEY is not set"):
      client(url, store).ask(ASKED)
    assert endpoint.keys == ["Bearer none"]


def test_a_redirect_is_named_and_not_followed(store):
  """What is asked, and the key, are for the server that was named."""
  away = Do.raw("", 307, Location="http://127.0.0.1:9/v1/chat/completions")
  with serve(in_turn(away)) as (url, endpoint):
    with pytest.raises(UserError, match="307: sends on to http://127.0.0.1:9/v1"):
      client(url, store).ask(ASKED)
    assert len(endpoint.seen) == 1


def test_a_reply_that_was_packed_unasked_is_unpacked(store):
  body = '{"choices": [{"message": {"content": "hi"}}]}'
  with serve(in_turn(Do.packed(body))) as (url, _):
    assert client(url, store).ask(ASKED).text == "hi"


def test_key_is_sent_and_not_stored_even_when_it_is_echoed(store):
  with serve(in_turn(Do.say(f"your key is {KEY}"))) as (url, endpoint):
    assert client(url, store).ask(ASKED).text == "your key is ***"
    assert endpoint.keys == [f"Bearer {KEY}"]
  store.close()
  assert KEY.encode() not in store.path.read_bytes()


def test_reply_is_asked_for_once(store):
  with serve(in_turn(Do.say("first"), Do.say("second"))) as (url, endpoint):
    texts = [client(url, store).ask(ASKED).text for _ in range(2)]
    assert (texts, len(endpoint.seen)) == (["first", "first"], 1)
  assert Client("", store).ask(ASKED).text == "first"


def test_offline_sends_nothing(store):
  with serve(in_turn(Do.say("hi"))) as (url, endpoint):
    with pytest.raises(UserError, match="lacks the reply of m to request"):
      client(url, store, offline=True).ask(ASKED)
    assert not endpoint.seen


def test_damaged_reply_is_named(store):
  store.put(ASKED.key, ASKED.canonical, "", "{")
  with pytest.raises(UserError, match="its reply to request .* is damaged: no JSON"):
    Client("", store).ask(ASKED)


def test_filter_of_the_endpoint_is_a_refusal_that_is_kept(store):
  answer = Do.error(400, "not that", "content_filter")
  with serve(in_turn(answer)) as (url, endpoint):
    assert client(url, store).ask(ASKED).refused
    assert client(url, store).ask(ASKED).refused
    assert len(endpoint.seen) == 1


def test_extra_fields_reach_the_endpoint(store):
  asked = Request("m", ASKED.messages, extra={"max_tokens": None, "top_k": 3})
  with serve(in_turn(Do.say("hi"))) as (url, endpoint):
    client(url, store).ask(asked)
  (body,) = endpoint.seen
  assert body["top_k"] == 3
  assert "max_tokens" not in body


@pytest.mark.parametrize(
  "url", ["localhost:8000", "ftp://host/v1", "http://", "http://[/v1", "http://h:99999"]
)
def test_endpoint_that_is_no_url_is_said(url):
  with pytest.raises(UserError, match="want a URL"):
    check_endpoint(url)


def test_secret_in_the_url_is_refused_and_not_shown():
  for url in (f"http://me:{KEY}@host/v1", f"http://host/v1?key={KEY}"):
    with pytest.raises(UserError, match="belongs into the environment") as error:
      check_endpoint(url)
    assert KEY not in str(error.value)
