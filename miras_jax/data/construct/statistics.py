"""What a run made, in numbers, beside what the paper and PRIST's test split say."""

import statistics

from input_pipeline import mask_ops
from input_pipeline.records import SEG_TOKEN
from miras_jax.data.construct import checks, guesser

FINE = 0.01  # share of the picture below which a target is fine
# The paper's counts, and what PRIST's public test split (508 dialogues) measures.
PAPER = {"conversations": 8300, "rounds": 24000, "images": 2800}
PRIST_TEST = {
  "rounds_a_conversation": 3.88,
  "words_a_question": 10.58,
  "words_an_answer": 10.15,
  "letters_a_turn": 63.4,
  "words_a_focus": 4.57,
  "letters_a_focus": 27.5,
}


def summary(run, lists, settings, masked) -> dict:
  """What meta.json holds. lists: {split: records}."""
  drafts = run.drafts()
  before, after = run.guess
  return {
    "made_by": "miras data construct",
    "settings": settings,
    "masks": masked,
    "splits": {split: len(records) for split, records in lists.items()},
    "counts": {
      "photographs": len(run.photos),
      "photographs_used": sum(bool(p.drafts) for p in run.photos),
      "photographs_unusable": len(run.problems),
      "conversations": len(drafts),
      "rounds": sum(len(d.turns) // 2 for d in drafts),
      "rejected": len(run.rejections),
    },
    "rejections": {
      reason: {"count": count, "meaning": checks.REASONS[reason]}
      for reason, count in run.reasons().items()
    },
    "guesser": {
      "allowed_above_chance": guesser.ALLOWED,
      "before": before._asdict(),
      "after": after._asdict(),
    },
    "statistics": measure(run),
    "prist_test": PRIST_TEST,
    "paper": PAPER,
    "tokens": dict(zip(("in", "out"), run.tokens, strict=True)),
    "unusable": [str(problem) for problem in run.problems],
  }


def measure(run) -> dict:
  """Means over the conversations; None where there are none."""
  drafts = run.drafts()
  said = [(role, _words(text), text) for d in drafts for role, text in d.turns]
  areas = sorted(_areas(run))
  return {
    "rounds_a_conversation": _mean([len(d.turns) / 2 for d in drafts]),
    "words_a_question": _mean([words for role, words, _ in said if role == "user"]),
    "words_an_answer": _mean([words for role, words, _ in said if role != "user"]),
    "letters_a_turn": _mean([len(text) for _, _, text in said]),
    "words_a_focus": _mean([_words(d.focus) for d in drafts]),
    "letters_a_focus": _mean([len(d.focus) for d in drafts]),
    "different_focuses": len({checks.plain(d.focus) for d in drafts}),
    "share_of_fine_targets": _mean([float(area < FINE) for area in areas]),
    "share_of_parts": _mean([float(is_part) for is_part in _parts(run)]),
    "median_target_area": statistics.median(areas) if areas else None,
  }


def _parts(run):
  """Of each focus with a mask, whether it is a part of another thing."""
  for photo in run.photos:
    for draft in photo.drafts:
      if draft.annotation:
        yield photo.regions[int(draft.annotation[1:])].part_of is not None


def _areas(run):
  for photo in run.photos:
    for draft in photo.drafts:
      if draft.annotation:
        rle = photo.regions[int(draft.annotation[1:])].rle
        yield mask_ops.rle_area(rle) / (photo.height * photo.width)


def _words(text):
  return len(text.replace(SEG_TOKEN, " ").split())


def _mean(values):
  return round(statistics.fmean(values), 4) if values else None
