"""The free-running pass and its three controls as jobs, and masks from their answers.

Each control takes one thing away and is scored against the original targets:

  swapped_conversation  the user turns of another conversation about the same image with
                        another target; where there is none, of one about another image.
                        Its masks pair with the targets from the last one backwards.
  last_turn_only        the request that asks for the mask, without the turns before it.
  swapped_image         the same conversation about another image, whose canvas is
                        stretched to the original image.
"""

import dataclasses

import numpy as np

from input_pipeline.conversation import count_segs
from input_pipeline.records import EMPTY_NAME, OBJ_TOKEN, SEG_TOKEN
from miras_jax.inference.conversation import full_size
from miras_jax.inference.rollout import Job


def seg_slots(record):
  """[(turn, index)] of each target: the answer with its [SEG], and which one there."""
  answers = [text for role, text in record.turns if role == "assistant"]
  return [(t, k) for t, text in enumerate(answers) for k in range(count_segs(text))]


def with_names(text, names):
  """An answer as training writes it, [OBJ]name[SEG]; takes a name for each [SEG]."""
  out = []
  for part in text.split(SEG_TOKEN)[:-1]:
    name = next(names, None)
    named = name is not None and OBJ_TOKEN not in part
    out.append(part + (f"{OBJ_TOKEN}{name or EMPTY_NAME}" if named else ""))
  return SEG_TOKEN.join([*out, text.split(SEG_TOKEN)[-1]])


def image_key(record):
  """What tells images apart."""
  return record.image_id or record.id


@dataclasses.dataclass(frozen=True)
class Plan:
  """Jobs to run; the first ones are the free-running pass, one a record.

  `swapped_conversation`: job of each record. `last_turn`: {(record, turn): job}.
  `swapped_image`: (job, record whose image it is) of each record. A control that does
  not run is None. `counts` goes into the report.
  """

  jobs: list
  swapped_conversation: list | None = None
  last_turn: dict | None = None
  swapped_image: list | None = None
  counts: dict = dataclasses.field(default_factory=dict)


def plan(records, *, gold=False, enabled=True):
  """Plan for `records`. `gold` takes the gold answers as history.

  The controls that swap need a second image; without one they do not run.
  """
  questions = [tuple(t for role, t in r.turns if role == "user") for r in records]
  answers = [tuple(t for role, t in r.turns if role == "assistant") for r in records]
  names = [tuple(name for name, _ in r.targets) for r in records]

  def job(image, conversation):
    history = (answers[conversation], names[conversation]) if gold else ((), ())
    return Job(image, questions[conversation], *history)

  def add(new):
    jobs.append(new)
    return len(jobs) - 1

  every = range(len(records))
  jobs = [job(i, i) for i in every]
  if not enabled:
    return Plan(jobs)
  last_turn = {
    (i, turn): add(Job(i, questions[i][turn : turn + 1]))
    for i in every
    for turn in sorted({turn for turn, _ in seg_slots(records[i])})
  }
  others = [another_image(records, i) for i in every]
  if None in others:
    return Plan(jobs, last_turn=last_turn)
  partners = [another_conversation(records, i) for i in every]
  return Plan(
    jobs=jobs,
    # A partner is about this very image: its own free-running job says it all.
    swapped_conversation=[
      add(job(i, others[i])) if partners[i] is None else partners[i] for i in every
    ],
    last_turn=last_turn,
    swapped_image=[(add(job(others[i], i)), others[i]) for i in every],
    counts={
      "swapped_same_image": len(records) - partners.count(None),
      "swapped_other_image": partners.count(None),
    },
  )


def another_conversation(records, i):
  """The next record about the same image with other targets, or None."""
  mine = [rle["counts"] for _, rle in records[i].targets]
  for k in _cycle(i, len(records)):
    theirs = [rle["counts"] for _, rle in records[k].targets]
    if image_key(records[k]) == image_key(records[i]) and theirs and theirs != mine:
      return k
  return None


def another_image(records, i):
  """The next record about another image, or None where all share one."""
  for k in _cycle(i, len(records)):
    if image_key(records[k]) != image_key(records[i]):
      return k
  return None


def _cycle(i, count):
  return ((i + step) % count for step in range(1, count))


def pick(answers, slots):
  """Logits (h, w) for each target: mask `index` of the answer of `turn`, else None."""
  return [
    answers[turn].logits[index] if index < len(answers[turn].logits) else None
    for turn, index in slots
  ]


def pick_last(answers, count):
  """The last `count` masks of a conversation in order; None where it has fewer."""
  masks = [mask for answer in answers for mask in answer.logits]
  masks = masks[max(0, len(masks) - count) :]
  return [None] * (count - len(masks)) + masks


def at_original_size(logits, views, image_size, original_hw=None):
  """[logits (h, w) or None] -> [bool mask (H, W) or None]."""
  return [
    None
    if low is None
    else full_size(np.asarray(low)[None], views, image_size, original_hw)[0]
    for low in logits
  ]
