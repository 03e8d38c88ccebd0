"""Asks until a reply has its form: what is broken or cut off is asked for again.

Each further try is a request of its own (it quotes the reply and says what is wrong, or
allows more tokens), so the store tells the tries apart and a replay takes the same way.
"""

import dataclasses
from typing import Any

from miras_jax.llm import forms
from miras_jax.llm.client import Client
from miras_jax.llm.request import Message, Request

REFUSED, HALF, BROKEN = "refused", "half", "broken"
QUOTED = 4000  # letters of a broken reply that are sent back
NOT_JSON = (
  "That reply cannot be read: {reason}. Answer again with the JSON object alone,"
  " nothing before or after it."
)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came of one question.

  value: the fields of the form, None where no reply had it. problem: why, one of
  REFUSED, HALF, BROKEN; "" where there is a value. flaws: problems of every try.
  """

  value: dict[str, Any] | None
  problem: str = ""
  flaws: tuple[str, ...] = ()
  tokens_in: int = 0
  tokens_out: int = 0
  served: tuple[str, ...] = ()


def ask(client: Client, request: Request, model, repairs: int = 2) -> Outcome:
  """Asks for an object of the pydantic `model`, up to 1 + `repairs` times.

  A refusal is an answer: it is not asked again.
  """
  flaws, heard = [], []
  for _ in range(repairs + 1):
    reply = client.ask(request)
    heard.append(reply)
    flaw, reason, value = _read(reply, model)
    if not flaw:
      return _outcome(value.model_dump(), "", flaws, heard)
    flaws.append(flaw)
    if flaw == REFUSED:
      break
    request = _follow_up(request, reply, flaw, reason)
  return _outcome(None, flaws[-1], flaws, heard)


def _read(reply, model):
  """(flaw or "", its reason, value)."""
  if reply.refused:
    return REFUSED, "", None
  try:
    return "", "", forms.read(reply.text, model)
  except ValueError as error:
    return (HALF if reply.half else BROKEN), str(error), None


def _follow_up(request, reply, flaw, reason):
  if flaw == HALF:
    return request.longer()
  # Some servers refuse an empty message of the assistant.
  quoted = reply.text[:QUOTED].strip() or "(nothing)"
  more = (
    Message("assistant", (quoted,)),
    Message("user", (NOT_JSON.format(reason=reason),)),
  )
  return dataclasses.replace(request, messages=request.messages + more)


def _outcome(value, problem, flaws, heard):
  return Outcome(
    value,
    problem,
    tuple(flaws),
    sum(reply.tokens_in for reply in heard),
    sum(reply.tokens_out for reply in heard),
    tuple(sorted({reply.served for reply in heard if reply.served})),
  )
