"""The free-running pass and its controls as jobs, and masks from their answers.

Each control takes one thing away and is scored against the original targets; more of
them are in `altered`:

  swapped_conversation  the user turns of another conversation about the same image with
                        another target; where there is none, of one about another image.
                        Its masks pair with the targets from the last one backwards.
  last_turn_only        the request that asks for the mask, without the turns before it.
  swapped_image         the same conversation about another image, whose canvas is
                        stretched to the original image.
"""

import collections
import dataclasses
import itertools

import numpy as np

from input_pipeline.conversation import count_segs
from input_pipeline.records import EMPTY_NAME, OBJ_TOKEN, SEG_TOKEN
from miras_jax.evaluation import altered
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
  `swapped_image`: (job, record whose image it is) of each record. `altered`: (job,
  `altered.Altered`) of those that one applies to. A control that does not run is None.
  `counts` goes into the report.
  """

  jobs: list
  swapped_conversation: list | None = None
  last_turn: dict | None = None
  swapped_image: list | None = None
  altered: tuple = ()
  counts: dict = dataclasses.field(default_factory=dict)


def plan(records, *, gold=False, enabled=True, sample=altered.SAMPLE):
  """Plan for `records`. `gold` takes the gold answers as history.

  sample: most conversations of each pass of `altered`, 0 for all. The controls that
  swap need a second image; without one they do not run.
  """
  talks = [altered.talk_of(record) for record in records]
  every = range(len(records))

  def job(image, conversation):
    talk = talks[conversation]
    return Job(image, talk.questions, *((talk.answers, talk.names) if gold else ()))

  def add(new):
    jobs.append(new)
    return len(jobs) - 1

  jobs = [job(i, i) for i in every]
  if not enabled:
    return Plan(jobs)
  last_turn = {
    (i, turn): add(Job(i, talks[i].questions[turn : turn + 1]))
    for i in every
    for turn in sorted({turn for turn, _ in talks[i].places})
  }
  changed, counts = altered.plan(talks, gold=gold, sample=sample)
  found = {
    "last_turn": last_turn,
    "altered": tuple((add(use.job), use) for use in changed),
    "counts": {"altered": counts},
  }
  others, mates = other_images(records), partners(records)
  if None in others:
    return Plan(jobs, **found)
  found["counts"] |= {
    "swapped_same_image": len(records) - mates.count(None),
    "swapped_other_image": mates.count(None),
  }
  return Plan(
    jobs=jobs,
    # A partner is about this very image: its own free-running job says it all.
    swapped_conversation=[
      add(job(i, others[i])) if mates[i] is None else mates[i] for i in every
    ],
    swapped_image=[(add(job(others[i], i)), others[i]) for i in every],
    **found,
  )


def other_images(records) -> list:
  """For each record the next one about another image, None where all share one."""
  keys = [image_key(record) for record in records]
  if len(set(keys)) < 2:
    return [None] * len(keys)
  found = []
  for i, key in enumerate(keys):
    around = itertools.chain(range(i + 1, len(keys)), range(i))
    found.append(next(k for k in around if keys[k] != key))
  return found


def partners(records) -> list:
  """For each record the next one about the same image with other targets, or None."""
  mates, found = collections.defaultdict(list), []
  for i, record in enumerate(records):
    mates[image_key(record)].append(i)
  targets = [[rle["counts"] for _, rle in record.targets] for record in records]
  for i, record in enumerate(records):
    same = mates[image_key(record)]
    later = (k for k in same if k > i)
    fits = (k for k in (*later, *same) if targets[k] and targets[k] != targets[i])
    found.append(next(fits, None))
  return found


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
