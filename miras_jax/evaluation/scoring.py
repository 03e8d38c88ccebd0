"""Rows and prediction lines of records; a record that fails is left out by name."""

import sys

from input_pipeline import mask_ops
from input_pipeline.records import one_line
from miras_jax.errors import UserError
from miras_jax.evaluation import controls, kept, metrics

FORCED = "teacher_forced"


class Scored:
  """Takes answers as they are made. `lines`: {record: its line of predictions.jsonl},
  `failed`: {record: why it cannot be scored, its name first}.

  masks: kept.Masks. problem(i): why record i's image cannot be read, or "". write: gets
  each line at once.
  """

  def __init__(self, records, masks, problem, write):
    self._records, self._masks = records, masks
    self._problem, self._write = problem, write
    self.lines, self.failed = {}, {}

  def take(self, job, answers):
    """What Rollout keeps of a job; those of the free-running pass come first."""
    for use in self._masks.uses(job):
      if why := self._problem(use.image):
        self._fail(use.record, why)
      else:
        self._attempt(use.record, self._masks.take, use, answers)
    answers = [answer._replace(logits=answer.logits[:0]) for answer in answers]
    if job < len(self._records) and job not in self.failed:
      self._attempt(job, self._add_line, job, answers)
    return answers

  def take_forced(self, i, logits):
    """What teacher forcing keeps of record i."""
    return self._attempt(i, self._masks.take_forced, i, logits) or [None] * len(logits)

  def tables(self, forced):
    """(records that were scored, {name: table of their targets}), one record at a time.

    forced: RLEs of teacher forcing. Raises UserError where no record was scored.
    """
    masks_of = {**self._masks.of, FORCED: forced}
    tables = {name: metrics.Targets(canny=name == kept.FREE) for name in masks_of}
    sound = []
    for i, record in enumerate(self._records):
      if i not in self.failed:
        masks = {name: masks[i] for name, masks in masks_of.items()}
        rows = self._attempt(i, _rows, record, masks)
      if i not in self.failed:
        sound.append(i)
        for name, table in tables.items():
          table.rows += rows[name]
    if not sound:
      raise UserError(f"no record could be scored: {next(iter(self.failed.values()))}")
    return sound, {name: table.table() for name, table in tables.items()}

  def _add_line(self, i, answers):
    masks = self._masks.of[kept.FREE][i]
    self.lines[i] = prediction(self._records[i], answers, masks)
    self._write(self.lines[i])

  def _attempt(self, i, work, *args):
    """`work(*args)`; when that fails, None, and record i is left out."""
    try:
      return work(*args)
    except OSError:  # where the results go: it is the same for all
      raise
    except Exception as error:  # of one record: the others are worth their hours
      self._fail(i, f"{type(error).__name__}: {error}")
      return None

  def _fail(self, i, why):
    if i not in self.failed:
      self.failed[i] = one_line(f"{self._records[i].id}: cannot be scored: {why}")
      print(f"{self.failed[i]} (left out)", file=sys.stderr)


def _rows(record, masks_of):
  """{name: rows of `metrics.Targets`} of one record."""
  out = {}
  for name, masks in masks_of.items():
    targets = metrics.Targets(canny=name == kept.FREE)
    slots = controls.seg_slots(record)
    for (turn, index), (_, true), rle in zip(slots, record.targets, masks, strict=True):
      where = {"conversation": record.id, "turn": turn, "index": index}
      image = controls.image_key(record)
      targets.add(*kept.pair(rle, true), image=image, **where)
    out[name] = targets.rows
  return out


def prediction(record, answers, masks):
  """One line of predictions.jsonl. masks: RLE, or None, of each target."""
  questions = [text for role, text in record.turns if role == "user"]
  gold = [text for role, text in record.turns if role == "assistant"]
  targets = []
  for (turn, index), (name, true), rle in zip(
    controls.seg_slots(record), record.targets, masks, strict=True
  ):
    pred_HW, true_HW = kept.pair(rle, true)
    targets.append(
      {
        "turn": turn,
        "index": index,
        "name": name,
        "produced": rle is not None,
        "mask": mask_ops.encode_rle(pred_HW),
        "iou": metrics.published_ciou(pred_HW, true_HW),
        "true": true,
      }
    )
  return {
    "id": record.id,
    "image": record.image_id,
    "turns": [
      {"user": q, "answer": a.text, "gold": g, "num_seg": a.num_seg}
      for q, a, g in zip(questions, answers, gold, strict=True)
    ],
    "targets": targets,
  }
