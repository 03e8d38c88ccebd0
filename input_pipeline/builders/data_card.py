"""card.md of a built data set: what is known of it, and what people must say."""

import pathlib

from input_pipeline.builders.builder import Card

NAME = "card.md"
FILL = "_(to be filled in)_"
COUNTS = ("images", "conversations", "targets", "empty_targets", "rejected")


def text(card: Card, settings, splits) -> str:
  """Markdown from a source's card and the build's settings and counts by split.

  It names no folder of the machine, and a build of the same files has the same card.
  """
  licence = card.licence or FILL
  options = settings["options"]
  chosen = ", ".join(f"`--{k}={_name(v)}`" for k, v in options.items()) or "none"
  lines = [
    f"# Data card: {card.title}",
    "",
    card.description.strip(),
    "",
    "| | |",
    "| --- | --- |",
    f"| name, version | {card.name} {card.version} |",
    f"| source | {card.homepage or FILL} |",
    f"| licence of the source | {_cell(licence)} |",
    f"| options of the build | {chosen} |",
    "| form | ArrayRecord with features.json, as TensorFlow Datasets reads it |",
    "",
    "## What is in it",
    "",
    "Counts of this build, and in brackets those that the authors state.",
    "",
    f"| split | {' | '.join(name.replace('_', ' ') for name in COUNTS)} |",
    f"| --- |{' ---: |' * len(COUNTS)}",
    *(_row(split, counts, card) for split, counts in splits.items()),
    "",
    "Entries that were rejected are lines of `rejected-SPLIT.jsonl` with their reasons,"
    " odd ones that were kept are in `notes-SPLIT.jsonl`.",
    "",
    "## Which build",
    "",
    "| split | fingerprint of the records | of the files |",
    "| --- | --- | --- |",
    *(
      f"| {split} | `{counts['fingerprint']}` | `{counts['files_fingerprint']}` |"
      for split, counts in splits.items()
    ),
    "",
    "## To be filled in",
    "",
    "| | |",
    "| --- | --- |",
    f"| who took the photographs, where and when | {FILL} |",
    f"| who labelled them, and how agreement was measured | {FILL} |",
    f"| people in the pictures: consent, faces, plates | {FILL} |",
    f"| meant for, not meant for | {FILL} |",
    f"| known gaps and biases | {FILL} |",
    f"| contact | {FILL} |",
    "",
    "`miras data audit` finds leaks between splits and contradictions, `miras data"
    " stats` counts words, areas and masks, `miras data agreement` compares two"
    " annotations.",
  ]
  if card.citation:
    lines += ["", "## Citation", "", "```", card.citation.strip(), "```"]
  return "\n".join(lines) + "\n"


def _row(split, counts, card):
  stated = card.published.get(split, {})
  cells = [
    f"{counts[name]:,}" + (f" ({stated[name]:,})" if name in stated else "")
    for name in COUNTS
  ]
  return f"| {split} | {' | '.join(cells)} |"


def _name(value):
  """A value, of a path its last part."""
  return pathlib.PurePath(value).name if "/" in str(value) else value


def _cell(value):
  return " ".join(str(value).split()).replace("|", "\\|")
