"""What a run says on the screen."""

import sys

MOST = 20  # lines of problems


def problems(run) -> None:
  """A line for each photograph that cannot be used."""
  for problem in run.problems[:MOST]:
    print(problem, file=sys.stderr)
  if len(run.problems) > MOST:
    print(f"and {len(run.problems) - MOST:,} more: meta.json", file=sys.stderr)


def reasons(run) -> str:
  """ "named_early 3, count 1"."""
  return ", ".join(f"{reason} {count}" for reason, count in run.reasons().items())


def summary(meta: dict, out) -> None:
  counts, after = meta["counts"], meta["guesser"]["after"]
  for reason, entry in meta["rejections"].items():
    print(f"rejected: {reason} {entry['count']:,}: {entry['meaning']}")
  print(
    f"one turn and no picture: {after['accuracy']:.1%} right, by chance"
    f" {after['chance']:.1%}"
  )
  splits = ", ".join(f"{split} {count:,}" for split, count in meta["splits"].items())
  print(
    f"{out}: {counts['conversations']:,} conversations on"
    f" {counts['photographs_used']:,} photographs ({splits}),"
    f" {counts['rejected']:,} rejected, {counts['photographs_unusable']:,} entries"
    " unusable"
  )
  if not meta["masks"]:
    print(f"masks are still to be drawn: {out}/worklist.html")
