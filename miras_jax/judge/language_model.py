"""A language model as a judge: its prompts, its requests, its answers."""

import json
from typing import Literal

from miras_jax.judge.rubric import FIRST, LEVELS, SECOND, TIE, Rubric
from miras_jax.judge.tasks import BLANK, PAIR, Task
from miras_jax.llm import asking, forms
from miras_jax.llm.asking import Outcome
from miras_jax.llm.client import Client
from miras_jax.llm.request import Message, Picture, Request

LABELS = (FIRST, SECOND)


class LanguageModelJudge:
  """One model behind an endpoint.

  pictures: `pictures.Pictures`, or None for a judge that reads the texts alone.
  """

  def __init__(
    self, name: str, client: Client, rubric: Rubric, pictures=None, *, repairs=2,
    json_mode="schema", extra=None,
  ):  # fmt: skip
    self.name, self._client = name, client
    self._rubric, self._pictures, self._repairs = rubric, pictures, repairs
    self._json_mode, self._extra = json_mode, extra or {}
    level = Literal[LEVELS]
    self._scores = forms.make(
      "Scores", {"reason": str} | dict.fromkeys(rubric.criteria, level)
    )
    verdict = Literal[FIRST, SECOND, TIE]
    self._verdict = forms.make("Verdict", {"reason": str, "winner": verdict})
    self._forms = {m: forms.schema(m) for m in (self._scores, self._verdict)}

  @property
  def sees_pictures(self) -> bool:
    return self._pictures is not None

  @property
  def client(self) -> Client:
    return self._client

  def request(self, task: Task) -> Request:
    """The first request for a task."""
    model = self._form(task)
    pair = task.kind == PAIR
    assignment = self._rubric.pair_task if pair else self._rubric.score_task
    fields = {name: "a number, 1 to 5" for name in self._rubric.criteria}
    if pair:
      fields = {"winner": f"{FIRST}, {SECOND} or {TIE}"}
    system = (
      f"{self._rubric.role}\n\n{assignment}\n\n{self._rubric.criteria_text()}\n\n"
      f"Reply with one JSON object: {json.dumps({'reason': 'a text'} | fields)}"
    )
    messages = (Message("system", (system,)), Message("user", tuple(self._parts(task))))
    return Request(
      self.name,
      messages,
      form=self._forms[model],
      form_name=model.__name__.lower(),
      json_mode=self._json_mode,
      max_tokens=self._rubric.max_tokens,
      extra=self._extra,
    )

  def answer(self, task: Task) -> Outcome:
    """Asks. Raises UserError, Stopped."""
    request, model = self.request(task), self._form(task)
    return asking.ask(self._client, request, model, self._repairs)

  def _form(self, task):
    return self._verdict if task.kind == PAIR else self._scores

  def _parts(self, task):
    """Texts and pictures of a task's conversations."""
    yield json.dumps(_as_json(task), indent=1, ensure_ascii=False)
    if self._pictures is None:
      return
    for label, conversation in zip(LABELS, task.shown, strict=False):
      name = f"`{label}`" if task.kind == PAIR else "the assistant"
      yield f"The picture with the masks of {name}:"
      yield Picture(self._pictures.draw(conversation, blank=task.probe == BLANK))


def _as_json(task):
  """What is judged; the texts cannot leave their strings."""
  first = task.shown[0]
  wanted = {"target": [name for name in first.names if name]}
  if task.kind != PAIR:
    turns = [{"user": t.user, "assistant": t.answer} for t in first.turns]
    return wanted | {"conversation": turns}
  answers = zip(*(c.answers for c in task.shown), strict=True)
  turns = [
    {"user": turn.user} | dict(zip(LABELS, said, strict=True))
    for turn, said in zip(first.turns, answers, strict=True)
  ]
  return wanted | {"conversation": turns}
