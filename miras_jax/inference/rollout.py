"""Free-running conversations in batches: the model's own answers become the history.

A `Job` is an image and a list of questions. Jobs of one batch go through their turns
together, so every turn of every batch has the same static shape and runs the same
compiled program. Each batch encodes its images once.
"""

import dataclasses

import jax
import numpy as np

from input_pipeline import examples
from input_pipeline.conversation import ConversationError
from miras_jax.inference import conversation


@dataclasses.dataclass(frozen=True)
class Job:
  """`image` names the picture, for `views_of`. With `gold` answers, these instead of
  the model's own are the history; `names` are then the names of their targets."""

  image: int
  questions: tuple
  gold: tuple = ()
  names: tuple = ()


class Rollout:
  """Runs jobs. `views_of(image)` gives the views of an image (`examples.make_views`).

  `too_long` counts the questions that did not fit and got an empty answer, `shortened`
  those whose oldest rounds were left out.
  """

  def __init__(self, loaded, generator, views_of, *, batch_size):
    self._loaded, self._generator = loaded, generator
    self._views_of, self._batch_size = views_of, batch_size
    self.too_long = self.shortened = 0

  def run(self, jobs, progress=iter, keep=lambda job, answers: answers):
    """[what is kept of each job]. `progress` wraps the iterator of batches.

    keep: (job's number, [Answer of each turn]) -> what is kept, called as jobs end.
    """
    # Equal lengths together: a batch takes as many turns as its longest job.
    order = sorted(range(len(jobs)), key=lambda i: -len(jobs[i].questions))
    size = self._batch_size
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    answers = [None] * len(jobs)
    for group in progress(groups):
      found = self.talk([jobs[i] for i in group])
      for i, turns in zip(group, found, strict=True):
        answers[i] = keep(i, turns)
    return answers

  def talk(self, jobs):
    """[[Answer of each turn] of each job] of up to a batch of jobs."""
    views = {image: self._views_of(image) for image in {job.image for job in jobs}}
    encoded = self._generator.encode(self._stack([views[job.image] for job in jobs]))
    session = self._generator.session(encoded, self._loaded.data.max_len)
    answers = [[] for _ in jobs]
    for turn in range(max(len(job.questions) for job in jobs)):
      active = [b for b, job in enumerate(jobs) if turn < len(job.questions)]
      self._take_turn(turn, jobs, active, session, answers)
    return answers

  def _take_turn(self, turn, jobs, active, session, answers):
    prompts, refused = [None] * self._batch_size, {}
    for b in active:
      try:
        prompts[b] = self._prompt(turn, jobs[b], answers[b])
      except ConversationError as error:
        refused[b] = conversation.Answer("", refused=str(error))
    if any(prompts):
      out = session.turn(prompts)
      spoken = conversation.read_answers(out, self._loaded.tokenizer)
    for b in active:
      if b in refused:
        answers[b].append(refused[b])
      else:
        gone = prompts[b].dropped_rounds
        answers[b].append(spoken[b]._replace(dropped_rounds=gone))
    self.too_long += len(refused)
    self.shortened += sum(bool(p and p.dropped_rounds) for p in prompts)

  def _prompt(self, turn, job, answers):
    """The Prompt of a job's turn; ConversationError where the question does not fit."""
    said = job.gold[:turn] if job.gold else [a.text for a in answers]
    turns = []
    for question, answer in zip(job.questions, said, strict=False):
      turns += [("user", question), ("assistant", answer)]
    turns.append(("user", job.questions[turn]))
    loaded = self._loaded
    names = list(job.names) if job.gold else None
    return conversation.prompt_of(turns, loaded.tokenizer, loaded.data, names=names)

  def _stack(self, rows):
    """Rows as one batch, filled up with the first row."""
    rows = rows + [rows[0]] * (self._batch_size - len(rows))
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


def teacher_forced(
  loaded,
  records,
  views_of,
  *,
  batch_size,
  progress=iter,
  keep=lambda record, logits: logits,
) -> list:
  """Masks of gold dialogues, one forward pass each.

  Returns [what is kept of each record] of its logits, (h, w) for each target; those
  that do not fit the row (dropped with the oldest rounds, or a record too long) are
  None. keep: (record's number, logits) -> what is kept, called as batches end.
  """
  model = loaded.model

  @jax.jit
  def forward(params, batch):
    return model.apply({"params": params}, batch)["mask_logits"]

  rows = []
  for i, record in enumerate(records):
    try:
      rows.append((i, *examples.make_row(record, loaded.tokenizer, loaded.data)))
    except ConversationError:
      continue
  found = [[None] * len(record.targets) for record in records]
  for start in progress(range(0, len(rows), batch_size)):
    group = rows[start : start + batch_size]
    filled = group + [group[0]] * (batch_size - len(group))
    parts = [views_of(i) | row for i, row, _ in filled]
    batch = {k: np.stack([part[k] for part in parts]) for k in parts[0]}
    with loaded.active():
      logits_BMHW = np.asarray(forward(loaded.params, batch))
    for (i, _, kept), logits_MHW in zip(group, logits_BMHW, strict=False):
      gone = len(found[i]) - len(kept)
      found[i] = keep(i, [None] * gone + list(logits_MHW[: len(kept)]))
  return found
