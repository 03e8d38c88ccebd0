"""Before a run: whether the model sees pictures, and what the run will cost."""

import re

import numpy as np

from input_pipeline.records import RecordError
from miras_jax.data.construct import checks, schemas
from miras_jax.data.construct.stages import USUAL_TOKENS
from miras_jax.errors import UserError
from miras_jax.llm import asking, cost, forms
from miras_jax.llm import reply as replies
from miras_jax.llm.request import Picture

SAMPLED = 24  # photographs from which the cost is estimated
_PURPLE = (128, 0, 160)
_SEEN = ("purple", "violet", "magenta", "indigo")
_OF_REQUEST = re.compile(r": (?:400|404|413|415|422|500|501): ")


def check_vision(client, stages) -> None:
  """One request about a picture whose answer nobody guesses. Raises UserError where the
  endpoint takes no picture, or the model does not see it; then the replies are not
  kept, since another model may be served under that name the next time."""
  picture = Picture(disc())
  request = stages.request("vision", picture, None)
  model, noted = stages.options.model, _Noted(client)
  try:
    outcome = asking.ask(noted, request, schemas.vision(), stages.options.repairs)
  except UserError as error:
    if _OF_REQUEST.search(str(error)):
      raise UserError(f"{error}; does {model} take pictures?") from None
    raise
  if outcome.value is None:
    client.store.forget(noted.keys)
    raise UserError(
      f"--model={model} does not answer a question about a picture:"
      f" {checks.REASONS[f'reply_{outcome.problem}']}; if it cannot be told to write"
      " JSON that way, --json=object or --json=none may help"
    )
  said = outcome.value["colour"]
  if not any(word in said.casefold() for word in _SEEN):
    client.store.forget(noted.keys)
    raise UserError(
      f"--model={model} does not see pictures: it calls a purple disc {said[:60]!r};"
      " choose a model with vision"
    )


class _Noted:
  """A client that notes the keys of what it was asked."""

  def __init__(self, client):
    self._client, self.keys = client, []

  def ask(self, request):
    self.keys.append(request.key)
    return self._client.ask(request)


def disc() -> np.ndarray:
  """A purple disc on white, RGB uint8 (160, 160, 3)."""
  rows_HW, columns_HW = np.mgrid[:160, :160]
  inside_HW = np.hypot(rows_HW - 80, columns_HW - 80) < 60
  image_HWC = np.full((160, 160, 3), 255, np.uint8)
  image_HWC[inside_HW] = _PURPLE
  return image_HWC


def estimate(photographs, stages, client) -> tuple[cost.Estimate, int]:
  """(what is still to be asked, photographs that were looked at). It is scaled from a
  sample; what a stage will ask is guessed while the one before it is not answered."""
  names = photographs.names
  step = -(-len(names) // SAMPLED)
  sample, total = names[::step], cost.Estimate()
  for name in sample:
    try:
      subject = photographs.load(name).subject
    except RecordError:
      continue  # the run names it
    total = _of_photograph(total, subject, stages, client)
  scale = len(names) / len(sample)
  return cost.Estimate(*(round(scale * number) for number in total)), len(sample)


def _of_photograph(total, subject, stages, client):
  seen = _Peek(client, total)
  stages.make(subject, seen.ask)
  # Stages after the first unanswered one: requests about as long as that one.
  ahead = {"elements": 1 + stages.options.per_image, "tree": stages.options.per_image}
  if seen.stopped:
    more = ahead.get(seen.stopped.form_name, 0)
    first = seen.stopped
    tokens = cost.count_tokens(first) + USUAL_TOKENS[first.form_name]
    usual = more * USUAL_TOKENS["dialogue"]
    return seen.total._replace(
      requests=seen.total.requests + more,
      tokens_in=seen.total.tokens_in + more * tokens,
      usual=seen.total.usual + usual,
      most=seen.total.most + more * first.max_tokens,
    )
  return seen.total


class _Peek:
  """Answers from the store alone and counts what is not there."""

  def __init__(self, client, total):
    self._client, self.total, self.stopped = client, total, None

  def ask(self, request, model):
    body = self._client.store.get(request.key)
    usual = USUAL_TOKENS[request.form_name]
    self.total = self.total.add(request, body is not None, usual)
    if body is None:
      self.stopped = request
      return asking.Outcome(None, asking.HALF)
    try:
      value = forms.read(replies.read(body).text, model).model_dump()
    except ValueError:
      return asking.Outcome(None, asking.BROKEN)
    return asking.Outcome(value)
