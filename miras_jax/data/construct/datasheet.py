"""The datasheet of a run, and the sample of it that people look at."""

import csv
import io
import math
import random

_Z = 1.96  # of a 95 % interval
WITHIN = 0.05  # half its width, of a share
_LABELS = {
  "rounds_a_conversation": "rounds a conversation",
  "words_a_question": "words a question",
  "words_an_answer": "words an answer",
  "letters_a_turn": "letters a turn",
  "words_a_focus": "words a focus",
  "letters_a_focus": "letters a focus",
  "different_focuses": "different focuses",
  "share_of_fine_targets": "targets below 1 % of the picture",
  "share_of_parts": "targets that are a part of another thing",
  "median_target_area": "median target, share of the picture",
}


def sample_size(count: int) -> int:
  """How many of `count` conversations to look at, so that the 95 % interval of a share
  is at most WITHIN to each side, whatever the share is."""
  if not count:
    return 0
  endless = _Z**2 * 0.25 / WITHIN**2
  return min(count, math.ceil(endless / (1 + (endless - 1) / count)))


def audit_sample(lists) -> str:
  """CSV of the conversations to look at and to annotate twice, drawn at random."""
  known = [
    (split, i, record["img_id"], record["focus"])
    for split, records in lists.items()
    for i, record in enumerate(records)
  ]
  drawn = random.Random(0).sample(range(len(known)), sample_size(len(known)))
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator="\n")
  writer.writerow(["split", "record", "img_id", "focus", "is_right", "rater"])
  writer.writerows([*known[i], "", ""] for i in sorted(drawn))
  return buffer.getvalue()


def text(meta: dict) -> str:
  """Markdown of what meta.json holds."""
  settings, counts = meta["settings"], meta["counts"]
  before, after = meta["guesser"]["before"], meta["guesser"]["after"]
  lines = [
    "# Datasheet",
    "",
    "Conversations about photographs that end on one thing each, made by `miras data"
    " construct` through a reasoning tree.",
    "",
    "## Source",
    "",
    f"* photographs: {settings['source']}; licence: {settings['licence']}",
    f"* {counts['photographs']:,} photographs read, {counts['photographs_unusable']:,}"
    f" entries unusable, {counts['photographs_used']:,} with conversations",
    "* masks: " + ("labels that came with them" if meta["masks"] else "to be drawn"),
    "",
    "## Making",
    "",
    f"* model: {settings['model']}, temperature {settings['temperature']:g};"
    f" {meta['tokens']['in']:,} tokens in, {meta['tokens']['out']:,} out",
    f"* prompts: {settings['prompts']['name']}, version"
    f" {settings['prompts']['version']}, SHA-256 {settings['prompts']['digest']}",
    f"* splits by photograph, copies together: {_splits(meta)}",
    "",
    "## Rejections",
    "",
    "| reason | conversations or photographs | meaning |",
    "| --- | --- | --- |",
    *(
      f"| {reason} | {entry['count']:,} | {entry['meaning']} |"
      for reason, entry in meta["rejections"].items()
    ),
    "",
    f"A guesser that reads one turn and no picture is right in {after['accuracy']:.1%}"
    f" (by chance {after['chance']:.1%}); before rejections {before['accuracy']:.1%}"
    f" ({before['chance']:.1%}).",
    "",
    "## Statistics",
    "",
    "| | here | PRIST, test split |",
    "| --- | --- | --- |",
    *_rows(meta),
    "",
    _paper(meta),
    "",
    "## Looking at it",
    "",
    _audit(counts["conversations"]),
  ]
  return "\n".join(lines) + "\n"


def _splits(meta):
  return ", ".join(f"{split} {count:,}" for split, count in meta["splits"].items())


def _rows(meta):
  for key, label in _LABELS.items():
    here, there = meta["statistics"][key], meta["prist_test"].get(key)
    yield f"| {label} | {_number(here)} | {_number(there)} |"


def _number(value):
  return "-" if value is None else f"{value:,.4g}"


def _paper(meta):
  counts, paper = meta["counts"], meta["paper"]
  return (
    f"{counts['conversations']:,} conversations, {counts['rounds']:,} rounds,"
    f" {counts['photographs_used']:,} photographs; the paper's PRIST has about"
    f" {paper['conversations']:,}, {paper['rounds']:,} and {paper['images']:,}."
  )


def _audit(count):
  return (
    f"`audit.csv` lists {sample_size(count):,} of {count:,} conversations, drawn at"
    f" random: enough for a 95 % interval of {WITHIN:.0%} to each side of any share."
    " Two people annotate and judge them independently; `miras data agreement` compares"
    " what they did (kappa, IoU, with intervals)."
  )
