"""Free-running conversations in batches: the model's own answers become the history.

A `Job` is an image and a list of questions. Jobs of one batch go through their turns
together, so every turn of every batch has the same static shape and runs the same
compiled program. Each batch encodes its images once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from input_pipeline import batch_table, examples
from input_pipeline.conversation import ConversationError
from input_pipeline.slots import fill
from miras_jax.inference import conversation, memory

OVER_MASKS = ("seg_pos", "obj_pos", "seg_valid")


@dataclasses.dataclass(frozen=True)
class Job:
  """`image` names the picture, for `views_of`. With `gold` answers, these instead of
  the model's own are the history; `names` are then the names of their targets. With
  `slots`, slots(turn) are the earlier masks that a turn sees, else the model's own."""

  image: int
  questions: tuple
  gold: tuple = ()
  names: tuple = ()
  slots: Callable[[int], list] | None = None


def batches(jobs, size) -> list[list[int]]:
  """Numbers of the jobs that are run together, always the same for the same jobs."""
  # Equal lengths together: a batch takes as many turns as its longest job.
  order = sorted(range(len(jobs)), key=lambda i: -len(jobs[i].questions))
  return [order[i : i + size] for i in range(0, len(order), size)]


class Rollout:
  """Runs jobs. `views_of(image)` gives the views of an image (`examples.make_views`).

  earlier: whether turns see earlier masks, with a model that can.
  most_masks: how many [SEG] of an answer get a mask, at least the generator's own
  number; that many at a time are decoded.
  """

  def __init__(
    self, loaded, generator, views_of, *, batch_size, most_masks=0, earlier=True
  ):
    self._loaded, self._generator = loaded, generator
    self._blind = not earlier
    self._looks = memory.looks(loaded.data, earlier)
    self._views_of, self._batch_size = views_of, batch_size
    self._most_masks = most_masks

  def run(self, jobs):
    """[[Answer of each turn] of each job]."""
    answers = [None] * len(jobs)
    for group in batches(jobs, self._batch_size):
      found = self.talk([jobs[i] for i in group])
      for i, turns in zip(group, found, strict=True):
        answers[i] = turns
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
    earlier = self._earlier(turn, jobs, answers)
    for b in active:
      try:
        prompts[b] = self._prompt(turn, jobs[b], answers[b], earlier[b])
      except ConversationError as error:
        refused[b] = conversation.Answer("", refused=str(error))
    if any(prompts):
      slots = memory.stack(earlier, self._loaded.data)
      spoken = self._spoken(session, prompts, slots)
    for b in active:
      if b in refused:
        answers[b].append(refused[b])
      else:
        gone = prompts[b].dropped_rounds
        answers[b].append(spoken[b]._replace(dropped_rounds=gone))

  def _earlier(self, turn, jobs, answers):
    """The earlier masks of all rows."""
    rows = [()] * self._batch_size
    for b, job in enumerate(jobs) if self._looks else ():
      if job.slots:
        rows[b] = job.slots(turn)
        continue
      made = ((x, t + 1) for t, a in enumerate(answers[b]) for x in a.logits)
      rows[b] = [memory.of_logits(logits, before) for logits, before in made]
    return rows

  def _spoken(self, session, prompts, slots):
    """The answers of all rows, with up to `most_masks` masks each."""
    shown = memory.blind(slots) if self._blind else slots
    slots = None if self._blind else slots
    out = session.turn(prompts, slots=slots, shown=shown)
    spoken = conversation.read_answers(out, self._loaded.tokenizer)
    step = self._generator.max_masks
    for first in range(step, self._most_masks, step):
      asked = zip(prompts, spoken, strict=True)
      if any(prompt and answer.num_seg > first for prompt, answer in asked):
        spoken = conversation.with_more(spoken, session.masks_from(first, slots=slots))
    return spoken

  def _prompt(self, turn, job, answers, earlier):
    """The Prompt of a job's turn; ConversationError where the question does not fit."""
    said = job.gold[:turn] if job.gold else [a.text for a in answers]
    turns = []
    for question, answer in zip(job.questions, said, strict=False):
      turns += [("user", question), ("assistant", answer)]
    turns.append(("user", job.questions[turn]))
    loaded = self._loaded
    names = list(job.names) if job.gold else None
    shown = memory.shown(earlier, loaded.data, blind=self._blind)
    return conversation.prompt_of(
      turns, loaded.tokenizer, loaded.data, names=names, shown=shown
    )

  def _stack(self, rows):
    """Rows as one batch, filled up with the first row."""
    rows = rows + [rows[0]] * (self._batch_size - len(rows))
    return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


class Forced:
  """Masks of gold dialogues, one forward pass each.

  earlier: whether gold masks are earlier masks, with a model that looks at them.
  """

  def __init__(self, loaded, views_of, *, batch_size, earlier=True):
    self._loaded, self._views_of, self._batch_size = loaded, views_of, batch_size
    self._blind = not earlier
    self._looks = memory.looks(loaded.data, earlier)
    model = loaded.model

    @jax.jit
    def forward(params, batch):
      return model.apply({"params": params}, batch)["mask_logits"]

    self._forward = forward

  def masks(self, records: Mapping[int, Any]) -> dict[int, list]:
    """{number: [logits (h, w) of each target]} of {number: record}.

    Those that do not fit the row (dropped with the oldest rounds, or a record too long)
    are None. A row has room for `max_masks`: one of more [SEG] is read several times.
    """
    found = {i: [None] * len(record.targets) for i, record in records.items()}
    rows = [row for i, record in records.items() for row in self._rows(i, record)]
    for start in range(0, len(rows), self._batch_size):
      group = rows[start : start + self._batch_size]
      logits_BMHW = self._run(group)
      for row, logits_MHW in zip(group, logits_BMHW, strict=False):
        count = min(len(logits_MHW), len(found[row.record]) - row.first)
        found[row.record][row.first : row.first + count] = logits_MHW[:count]
    return found

  def _rows(self, i, record):
    """The rows of a record: the same tokens, each with the next `max_masks` [SEG]."""
    loaded, step = self._loaded, self._loaded.data.max_masks
    roomy = dataclasses.replace(loaded.data, max_masks=max(step, len(record.targets)))
    try:
      row, kept = examples.make_row(record, loaded.tokenizer, roomy)
    except ConversationError:
      return
    gone = len(record.targets) - len(kept)
    slots = self._slots_of(i, kept, row, roomy) if self._looks else {}
    for first in range(0, len(kept), step):
      part = {name: row[name][first : first + step] for name in OVER_MASKS}
      part |= _cut(slots, first, step, loaded.data.slots)
      sizes = loaded.data.sizes(loaded.tokenizer.ids.pad)
      sizes["E"] = step + loaded.data.slots + 1  # the last of them is missing
      if memory.has_tokens(loaded.data):
        start = max(0, first - loaded.data.slots)
        part["image_slot"] = _renumbered(
          row["image_slot"], loaded.data, start, sizes["E"]
        )
      part = {name: batch_table.padded(name, x, sizes) for name, x in part.items()}
      yield _Row(i, gone + first, row | part)

  def _slots_of(self, i, targets, row, roomy):
    """`batch_table.SLOTS` of a record, a slot for each target of the row."""
    masks = np.zeros((roomy.max_masks, roomy.sam_size, roomy.sam_size), np.uint8)
    made = examples.make_masks(targets, self._views_of(i)["original_hw"], roomy)
    masks[: len(made)] = made
    options = {"most": roomy.slots, "read": memory.has_tokens(roomy)}
    slots = fill.slots(masks, row, roomy.slot_side, **options)
    missing = ("slot_valid", "slot_seen") if self._blind else ()
    return slots | {name: np.zeros_like(slots[name]) for name in missing}

  def _run(self, group):
    filled = group + [group[0]] * (self._batch_size - len(group))
    parts = [self._views_of(row.record) | row.arrays for row in filled]
    batch = {k: np.stack([part[k] for part in parts]) for k in parts[0]}
    with self._loaded.active():
      return np.asarray(self._forward(self._loaded.params, batch))


def _cut(slots, first, step, most):
  """What the [SEG] from `first` on, `step` of them, may see of a record's slots."""
  seg, slot = slice(first, first + step), slice(max(0, first - most), first + step)
  cuts = {("B", "M"): (seg,), ("B", "M", "E"): (seg, slot)}
  return {
    name: values[cuts.get(batch_table.TABLE[name].axes, (slot,))]
    for name, values in slots.items()
  }


def _renumbered(image_slot_T, data, start, count):
  """Image slots of a row with `count` earlier masks from number `start` on. The last of
  them is missing, and stands for all that it has not."""
  N, J = data.num_image_tokens, data.slot_tokens
  number_T, j_T = np.divmod(image_slot_T - N, J)
  at_T = number_T - start
  at_T = np.where((at_T < 0) | (at_T >= count), count - 1, at_T)
  return np.where(image_slot_T < N, image_slot_T, N + J * at_T + j_T)


class _Row(NamedTuple):
  """A row of a record; `first`: which of its targets the first mask is."""

  record: int
  first: int
  arrays: dict
