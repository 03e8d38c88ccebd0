"""Asks an OpenAI-compatible endpoint: store first, then retries with back-off.

What may pass is tried again (no connection, time-out, 408, 409, 429, 5xx, half a body);
what will not pass is one UserError (wrong key, unknown model, a request that the
endpoint does not take). An API key comes from the environment; it is neither stored nor
shown, be it that an endpoint echoes it.
"""

import json
import os
import urllib.parse

from miras_jax.errors import UserError
from miras_jax.llm import reply as replies
from miras_jax.llm.pace import Pace
from miras_jax.llm.reply import Reply
from miras_jax.llm.request import Request
from miras_jax.llm.store import Store

MAX_BODY = 16 << 20  # bytes of a reply
LONGEST_REST = 300  # seconds that a Retry-After may ask for
SHOWN = 200  # letters of an endpoint's message
AGAIN = "what was answered is kept: the same command goes on from there"


class Passing(Exception):
  """A trouble that may pass. rest: seconds for which the server asks for quiet."""

  def __init__(self, message, rest=0.0):
    super().__init__(message)
    self.rest = rest


class Client:
  """One endpoint.

  endpoint: base URL, e.g. https://host/v1; "" where only the store is asked. key_env:
  the environment variable of the key; a server that wants none gets "none". attempts:
  of each request. backoff: seconds before the second attempt, doubled from there.
  offline: a request that is not in the store is an error, nothing is sent.
  """

  def __init__(
    self,
    endpoint: str,
    store: Store,
    *,
    key_env: str = "OPENAI_API_KEY",
    timeout: float = 120.0,
    attempts: int = 6,
    backoff: float = 1.0,
    pace: Pace | None = None,
    offline: bool = False,
  ):
    self.endpoint = check_endpoint(endpoint) if endpoint else ""
    self.store, self.pace = store, pace or Pace()
    self._timeout, self._attempts, self._backoff = timeout, attempts, backoff
    self._offline = offline or not endpoint
    self._key_env, self._key = key_env, _read_key(key_env)
    self._openai = None if self._offline else self._connect()

  def has(self, request: Request) -> bool:
    """Whether the store holds its reply."""
    return self.store.get(request.key) is not None

  def ask(self, request: Request) -> Reply:
    """The reply, from the store if it is there. Raises UserError, pace.Stopped."""
    body = self.store.get(request.key)
    if body is None:
      if self._offline:
        raise UserError(
          f"{self.store.path}: lacks the reply of {request.model} to request"
          f" {request.key[:12]}, and nothing is sent offline"
        )
      body = self._hide(self._send(request))
      body = self.store.put(request.key, request.canonical, self.endpoint, body)
    try:
      return replies.read(body)
    except ValueError as error:
      raise UserError(
        f"{self.store.path}: its reply to request {request.key[:12]} is damaged:"
        f" {error}; move the file away (its replies are asked for again)"
      ) from None

  def _connect(self):
    import openai
    import tenacity  # noqa: F401  (what is missing is said now, not in a thread)

    from miras_jax.llm.bounded_http import BoundedClient

    return openai.OpenAI(
      base_url=self.endpoint,
      api_key=self._key or "none",
      max_retries=0,  # tenacity's are the only ones
      timeout=self._timeout,
      http_client=BoundedClient(self._timeout, MAX_BODY),
    )

  def _send(self, request) -> str:
    """The body of a sound reply."""
    import tenacity

    body = request.body()
    retrying = tenacity.Retrying(
      stop=tenacity.stop_after_attempt(self._attempts),
      wait=self._wait,
      retry=tenacity.retry_if_exception_type(Passing),
      sleep=self.pace.sleep,
      reraise=True,
    )
    try:
      return retrying(self._attempt, body)
    except Passing as error:
      raise UserError(
        f"{self.endpoint}: no sound answer in {self._attempts} attempts, at last:"
        f" {error}; {AGAIN}"
      ) from None

  def _wait(self, state):
    """Seconds before the next attempt: what the server asks for, or the back-off."""
    import tenacity

    doubled = tenacity.wait_exponential(multiplier=self._backoff, max=60)
    jittered = doubled + tenacity.wait_random(0, self._backoff)
    return max(jittered(state), state.outcome.exception().rest)

  def _attempt(self, body):
    self.pace.wait()
    import openai

    try:
      text = self._receive(body)
      replies.read(text)
      return text
    except openai.APIStatusError as error:
      return self._status(error)
    except openai.APIConnectionError as error:  # a time-out is one, too
      cause = error.__cause__ or error
      raise Passing(self._shown(str(cause) or type(cause).__name__)) from None
    except ValueError as error:
      raise Passing(self._shown(f"it answers with {error}")) from None

  def _receive(self, body) -> str:
    """The whole body of a reply."""
    create = self._openai.chat.completions.with_raw_response.create
    return create(**_arguments(body)).content.decode("utf-8", "replace")

  def _status(self, error):
    """What an HTTP status means: a body, Passing or UserError."""
    status, message = error.status_code, self._shown(_message(error))
    said = f"{self.endpoint}: {status}: {message}"
    if status == 429 and error.code == "insufficient_quota":
      raise UserError(f"{said}; {AGAIN} once there is credit")
    if status in (408, 409, 429) or status >= 500:
      rest = _rest(error.response.headers.get("retry-after"))
      if rest:
        self.pace.rest(rest)
      raise Passing(f"{status}: {message}", rest)
    if 300 <= status < 400:
      place = self._shown(error.response.headers.get("location", "nowhere"))
      raise UserError(
        f"{self.endpoint}: {status}: sends on to {place}: no request follows; name the"
        " place itself as --endpoint"
      )
    if status == 400 and error.code in ("content_filter", "content_policy_violation"):
      return replies.refusal(message)
    if status in (401, 403):
      held = "is the key it wants?" if self._key else "is not set"
      raise UserError(f"{said}; ${self._key_env} {held} (--key-env names another)")
    if status == 404:
      raise UserError(
        f"{said}; does --endpoint end in /v1, and is --model served there?"
      )
    raise UserError(
      f"{said}; if it does not know a field, --json=object or --json=none and"
      " --extra='{\"FIELD\": null}' leave it out"
    )

  def _hide(self, text):
    if self._key and len(self._key) >= 8:
      return text.replace(self._key, "***")
    return text

  def _shown(self, text):
    text = "".join(c if c.isprintable() else " " for c in self._hide(text))
    return text[:SHOWN]


def check_endpoint(url: str) -> str:
  """The URL of an endpoint. UserError for what is none or holds a secret."""
  try:
    parts = urllib.parse.urlsplit(url)
    sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
  except ValueError:
    sound = False
  if not sound:
    raise UserError(
      f"--endpoint={url[:100]}: want a URL, e.g. http://localhost:8000/v1"
    )
  if parts.username or parts.password or parts.query or parts.fragment:
    raise UserError(
      "--endpoint: holds a user, a password or a query; the key belongs into the"
      " environment, the URL ends with its path"
    )
  return url.rstrip("/")


def _read_key(name):
  key = os.environ.get(name, "").strip()
  if not (key.isascii() and key.isprintable()):
    raise UserError(f"${name} holds a character that no key has")
  return key


def _arguments(body):
  """The fields that the library has no argument for travel beside them."""
  known = {"model", "messages"}
  rest = {name: value for name, value in body.items() if name not in known}
  return {name: body[name] for name in known} | {"extra_body": rest}


def _message(error):
  """The endpoint's own words, or what the library makes of them."""
  body = error.body
  if isinstance(body, dict):
    inner = body.get("error", body)
    said = inner.get("message") if isinstance(inner, dict) else inner
    return str(said or json.dumps(body))
  return str(body or error)


def _rest(header):
  """Seconds of a Retry-After; 0 where it is a date or nonsense."""
  try:
    seconds = float(header)
  except (TypeError, ValueError):
    return 0.0
  return min(seconds, LONGEST_REST) if seconds > 0 else 0.0
