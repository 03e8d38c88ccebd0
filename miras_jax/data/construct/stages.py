"""The three stages of one photograph: elements, tree, a dialogue for each path.

What a reply lacks is a rejection with a reason, never an error: the run goes on.
"""

import dataclasses
import json
from collections.abc import Callable

from input_pipeline.narrate.wordings import Wordings
from miras_jax.data.construct import checks, claims, schemas, tree
from miras_jax.data.construct.drafts import Draft, Rejection, candidates
from miras_jax.data.construct.measures import Measures
from miras_jax.data.construct.prompts import Prompts
from miras_jax.llm import asking
from miras_jax.llm.request import Message, Picture, Request

MAX_TOKENS = {"elements": 3000, "tree": 5000, "dialogue": 1500, "vision": 400}
USUAL_TOKENS = {"elements": 600, "tree": 1200, "dialogue": 350, "vision": 20}
LEAST_SCORE = 2
DATA = "DATA:\n"


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
  """A photograph that is talked about. name: of its file; measures: None without
  masks."""

  name: str
  picture: Picture
  measures: Measures | None


@dataclasses.dataclass(frozen=True)
class Options:
  """What is asked for and how. per_image: most conversations of a photograph."""

  model: str
  per_image: int
  json_mode: str = "schema"
  extra: dict = dataclasses.field(default_factory=dict)
  temperature: float = 0.0
  repairs: int = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
  """What came of a photograph. tree: None where there is none."""

  drafts: tuple[Draft, ...]
  rejections: tuple[Rejection, ...]
  tree: tree.Tree | None
  tokens_in: int
  tokens_out: int


class Stages:
  """Requests of each stage and what their replies become."""

  def __init__(self, prompts: Prompts, options: Options, wordings: Wordings):
    self.prompts, self.options, self.wordings = prompts, options, wordings

  def request(self, stage: str, picture: Picture, data: dict | None, **fields):
    """The request of a stage about a picture."""
    text = self.prompts.fill(stage, **fields)
    if data is not None:
      text += f"\n\n{DATA}{json.dumps(data, separators=(',', ':'))}"
    return Request(
      self.options.model,
      (
        Message("system", (self.prompts.fill("system"),)),
        Message("user", (picture, text)),
      ),
      form=schemas.schema(stage),
      form_name=stage,
      json_mode=self.options.json_mode,
      max_tokens=MAX_TOKENS[stage],
      temperature=self.options.temperature,
      extra=self.options.extra,
    )

  def elements_request(self, subject: Subject) -> Request:
    data = {"annotations": _table(subject)}
    most = max(30, len(data["annotations"]))
    return self.request("elements", subject.picture, data, most=most)

  def tree_request(self, subject: Subject, elements: dict) -> Request:
    measures = subject.measures
    data = {
      "annotations": _table(subject),
      "whole": measures.whole if measures else False,
      "paths": self.options.per_image,
      "tests": measures.tests() if measures else [],
      "elements": [dataclasses.asdict(e) for e in elements.values()],
    }
    return self.request(
      "tree", subject.picture, data,
      paths=self.options.per_image, least=tree.LEAST_STEPS, longest=tree.MOST_STEPS,
    )  # fmt: skip

  def dialogue_request(self, subject, made: tree.Tree, path: tree.Path) -> Request:
    names = {i: e.name for i, e in made.elements.items()}
    steps = [
      dataclasses.asdict(node)
      | {"names": [names.get(i, "") for i in node.elements]}
      | _count(made, node, subject.measures)
      for node in made.steps(path)
    ]
    data = {
      "root": made.root,
      "question": made.questions[path.question].text,
      "path": steps,
      "names": names,
      "focus": dataclasses.asdict(made.elements[path.focus]),
    }
    letters = checks.MOST_LETTERS
    return self.request("dialogue", subject.picture, data, letters=letters)

  def make(self, subject: Subject, ask: Callable[[Request, type], asking.Outcome]):
    """All conversations of a photograph -> Made. Raises UserError of the endpoint."""
    work = _Work(self, subject, ask)
    work.run()
    return Made(
      tuple(work.drafts), tuple(work.rejections), work.tree, work.tokens_in,
      work.tokens_out,
    )  # fmt: skip


class _Work:
  """One photograph on its way through the stages."""

  def __init__(self, stages, subject, ask):
    self.stages, self.subject, self._ask = stages, subject, ask
    self.drafts, self.rejections, self.tree = [], [], None
    self.tokens_in = self.tokens_out = 0

  def run(self):
    measures = self.subject.measures
    annotations = set(measures.things) if measures else set()
    value = self._reply("elements", self.stages.elements_request(self.subject))
    elements = value and self._parse(tree.read_elements, value, annotations)
    if not elements:
      return
    value = self._reply("tree", self.stages.tree_request(self.subject, elements))
    self.tree = value and self._parse(tree.read, value, elements)
    if not self.tree:
      return
    chosen = 0
    for path in self.tree.paths:
      if chosen == self.stages.options.per_image:
        self._reject(checks.SURPLUS, "more paths than were asked for", path)
      elif self._may_ask(path):
        chosen += 1
        self._talk(path)

  def _may_ask(self, path) -> bool:
    """Whether a path is worth a dialogue; rejects it otherwise."""
    fault = checks.path_fault(
      self.tree, path, self.subject.measures, self.stages.prompts
    )
    if fault:
      self._reject(*fault, path)
      return False
    score = self.tree.questions[path.question].score
    if score < LEAST_SCORE:
      self._reject(checks.SCORE, f"its question is scored {score}", path)
      return False
    return True

  def _talk(self, path):
    request = self.stages.dialogue_request(self.subject, self.tree, path)
    value = self._reply("dialogue", request, path)
    if value is None:
      return
    draft = make_draft(self.subject, self.tree, path, value)
    if faults := checks.faults(draft, value, self.stages):
      reasons = tuple(reason for reason, _ in faults)
      self._reject(*faults[0], path, reasons, draft.light())
    else:
      self.drafts.append(draft.light())

  def _reply(self, stage, request, path=None):
    """The fields of a reply; None, and a rejection, where there are none."""
    outcome = self._ask(request, schemas.FORMS[stage]())
    self.tokens_in += outcome.tokens_in
    self.tokens_out += outcome.tokens_out
    if outcome.value is None:
      self._reject(f"reply_{outcome.problem}", f"stage {stage}", path)
    return outcome.value

  def _parse(self, read, *arguments):
    try:
      return read(*arguments)
    except ValueError as error:
      self._reject(checks.TREE, str(error))
      return None

  def _reject(self, reason, detail, path=None, reasons=(), draft=None):
    self.rejections.append(
      Rejection(self.subject.name, reason, detail, reasons or (reason,), path, draft)
    )


def make_draft(subject: Subject, made: tree.Tree, path: tree.Path, value) -> Draft:
  """The dialogue of a reply as it would stand in the data set."""
  turns = []
  for turn in value["turns"]:
    turns += [("user", turn["question"].strip()), ("assistant", turn["answer"].strip())]
  turns.append(("user", value["request"].strip()))
  turns.append(("assistant", value["last_answer"].strip()))
  return Draft(
    image=subject.name,
    tree=made,
    path=path,
    turns=tuple(turns),
    focus=" ".join(value["focus"].split()),
    annotation=made.elements[path.focus].annotation,
    measures=subject.measures,
    names=candidates(made, path, subject.measures),
  )


def _table(subject):
  """The annotations for a prompt, [] where there are none."""
  measures = subject.measures
  if measures is None:
    return []
  targets = set(measures.targets())
  return [row | {"target": row["id"] in targets} for row in measures.table()]


def _count(made, node, known):
  """How many things a node leaves, where its elements are more: some are parts."""
  count = claims.count_of(made, node, known)
  return {} if count == len(node.elements) else {"count": count}
