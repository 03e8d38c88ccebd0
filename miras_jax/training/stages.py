"""The stages of a run: which part of its steps learns what.

  parts   words, points and boxes become masks; the language model waits (parts.py)
  align   everything, on conversations of one round
  talks   everything, on all conversations

One run: its state, log and progress bar go on from stage to stage; what differs is what
a step minimises and the batches it gets. The rate falls to 0 in each and is warmed up
again in the next: with one fall over all stages, the last one learns too little. A run
without stages is all `talks`.
"""

import dataclasses
import re
from typing import NamedTuple

from miras_jax.errors import UserError

PARTS, ALIGN, TALKS = "parts", "align", "talks"


class Stage(NamedTuple):
  """A name and the step it ends with."""

  name: str
  end: int


def of(config) -> list[Stage]:
  """The stages of a run whose ends are noted (`noted`), in their order."""
  found = []
  for item in filter(None, config.stages.noted.split(",")):
    name, _, end = item.partition(":")
    if name not in (PARTS, ALIGN) or not re.fullmatch("[1-9][0-9]{0,11}", end):
      raise UserError(
        f"stages.noted={config.stages.noted!r}: want parts:STEP and align:STEP, joined"
        " by a comma"
      )
    found.append(Stage(name, min(int(end), config.steps)))
  return [*found, Stage(TALKS, config.steps)]


def left(config, step) -> list[Stage]:
  """Those of at least one step that a run at `step` has not ended yet."""
  found = []
  for stage in of(config):
    if stage.end > step:
      found.append(stage)
      step = stage.end
  return found


def noted(config, saved=None):
  """The config with the ends of its stages and of their rates: those of `saved`, the
  run it goes on with, whatever number of steps that had."""
  if saved is not None:
    stages = dataclasses.replace(config.stages, noted=saved.stages.noted)
    return dataclasses.replace(config, stages=stages)
  text = _ends(config.stages, config.steps)
  stages = dataclasses.replace(config.stages, noted=text)
  config = dataclasses.replace(config, stages=stages)
  if not text:
    return config
  ends = ",".join(f"{stage.end}:rewarm" for stage in of(config)[:-1])
  optim = dataclasses.replace(config.optim, extended=ends)
  return dataclasses.replace(config, optim=optim)


def _ends(choice, steps):
  """The note of the stages that have a step."""
  found, begin, share = [], 0, 0.0
  for name in (PARTS, ALIGN):
    share += getattr(choice, name)
    if (end := round(share * steps)) > begin:
      found.append(f"{name}:{end}")
      begin = end
  if found and begin >= steps:
    raise UserError(
      f"stages.parts={choice.parts} and stages.align={choice.align} leave no step for"
      f" conversations of steps={steps}: lower them, or raise steps"
    )
  return ",".join(found)


class Batches:
  """The batches of a run with stages: those of `main`, or of `align` in that stage.

  Pipelines of `miras_jax.training.task.open_batches`; align: None without that stage.
  """

  def __init__(self, main, align=None):
    self._main, self._align, self._now = main, align, main

  def enter(self, name):
    """What follows is of the stage `name`."""
    now = self._align if name == ALIGN and self._align else self._main
    if now is not self._now:
      self._now.close()  # its threads; where it is stays
    self._now = now

  def __iter__(self):
    return self

  def __next__(self):
    return next(self._now)

  def records(self, batch):
    """Numbers in the data set of the records that a batch holds."""
    return self._now.records(batch)

  def get_state(self):
    """Where both are; that of a run with one stage has no `align`."""
    state = self._main.get_state()
    return state | {ALIGN: self._align.get_state()} if self._align else state

  def set_state(self, state):
    """Goes on where `get_state` was taken."""
    state = dict(state)
    align = state.pop(ALIGN, None)
    self._main.set_state(state)
    if self._align and align is not None:
      self._align.set_state(align)

  def close(self):
    """Stops the threads."""
    self._now.close()
