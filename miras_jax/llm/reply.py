"""What an endpoint answered, read without trust: any field may be missing or odd."""

import json
from typing import NamedTuple

MAX_COUNT = 10**9  # tokens that a reply may claim


class Reply(NamedTuple):
  """One answer. text: what was said; refused: whether the model or a filter declined;
  half: whether it stopped for length; served: the model's name by the server."""

  text: str
  refused: bool
  half: bool
  tokens_in: int
  tokens_out: int
  served: str


def read(body: str) -> Reply:
  """A body of /chat/completions. Raises ValueError for what is none."""
  try:
    found = json.loads(body)
  except (ValueError, RecursionError):
    raise ValueError(f"no JSON: {_shown(body)}") from None
  if isinstance(found, dict) and found.get("refused_by_endpoint"):
    return Reply("", True, False, 0, 0, "")
  try:
    choice = found["choices"][0]
    message = choice["message"]
    said, refusal = message.get("content"), message.get("refusal")
  except (KeyError, IndexError, TypeError, AttributeError):
    raise ValueError(f"no chat completion: {_shown(body)}") from None
  reason = choice.get("finish_reason")
  usage = found.get("usage")
  return Reply(
    text=_text(said),
    refused=bool(refusal) or reason == "content_filter",
    half=reason == "length",
    tokens_in=_count(usage, "prompt_tokens"),
    tokens_out=_count(usage, "completion_tokens"),
    served=str(found.get("model") or "")[:200],
  )


def refusal(why: str) -> str:
  """A body that stands for an endpoint's own refusal of a request."""
  return json.dumps({"refused_by_endpoint": why or "no reason given"})


def _text(content):
  """The text of a message; some servers give it in parts."""
  if isinstance(content, list):
    parts = [p.get("text") for p in content if isinstance(p, dict)]
    return "".join(p for p in parts if isinstance(p, str))
  return content if isinstance(content, str) else ""


def _count(usage, name):
  value = usage.get(name) if isinstance(usage, dict) else None
  sound = isinstance(value, int) and not isinstance(value, bool)
  return value if sound and 0 <= value <= MAX_COUNT else 0


def _shown(body):
  return repr(body[:80])
