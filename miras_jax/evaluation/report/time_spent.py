"""Where the time of the training went, by cause, over all of its lives."""

from miras_jax.evaluation.report import charts
from miras_jax.evaluation.report.markup import plural, section
from miras_jax.training import goodput

REMARKS = {
  "step": "what the run is for",
  "initialisation": "imports, data, parameters",
  "restore": "a checkpoint is read",
  "compile": "XLA",
  "data_wait": "waiting for a batch",
  "save": "waiting for a checkpoint to be written",
  "lost_work": "steps after the last save of a life that was killed",
  "idle": "nothing ran",
}


def render(lives) -> str:
  """Bars of the shares of `goodput.Life`s; nothing where there is none."""
  seconds = goodput.add(life.seconds for life in lives)
  found = goodput.shares(seconds)
  if not found:
    return ""
  rows = [
    charts.Bar(
      cause.replace("_", " "),
      {"value": found[cause]},
      f"{REMARKS[cause]}: {_duration(seconds[cause])}",
      main=cause == "step",
    )
    for cause in goodput.CAUSES
    if cause in found
  ]
  note = (
    f"Shares of {_duration(sum(seconds.values()))} in {plural(len(lives), 'start')} of"
    " the training, up to its last save. The first bar is the goodput."
  )
  body = f'<div class="card">{charts.bars(rows)}</div>'
  return section("time", "Where the time of the training went", body, note)


def _duration(seconds):
  """`1 h 02 min`, `3 min 20 s`, `4.1 s`."""
  if seconds < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f"{minutes} min {rest:02} s"
  return f"{minutes // 60} h {minutes % 60:02} min"
