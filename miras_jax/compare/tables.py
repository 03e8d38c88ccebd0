"""Examples to columns of metrics: the same rows for every run.

N targets, G images, K metrics.
"""

import sys

import numpy as np
import tqdm

from input_pipeline.conversation import count_segs
from input_pipeline.records import OBJ_TOKEN
from miras_jax.compare import paired, predictions
from miras_jax.evaluation import controls, metrics
from miras_jax.evaluation.rouge import rouge_l

GROUNDED = "grounded_accuracy"
MOST_LETTERS = 20_000  # of a text: ROUGE-L takes the product of two lengths


class Scored:
  """Every run's metrics by image. names: of the K metrics. sums: `paired.Sums` of each
  run. images: names of the G images. iou: {(run, example): IoU of its targets}. tables:
  of each run, a row a target."""

  def __init__(self, runs, examples, found, chosen=()):
    self.images = list(dict.fromkeys(e.image for e in examples))
    number = {image: i for i, image in enumerate(self.images)}
    self.iou, self.targets = {}, 0
    filled = self._fill(runs, examples, found)
    self.tables = [targets.table() for targets in filled]
    self.sums, self.names = [], []
    for place, (run, table) in enumerate(zip(runs, self.tables, strict=True)):
      columns = metrics.metric_columns(table)
      image_N = [number[name] for name in table["image"].tolist()]
      groups = [
        (columns, image_N),
        _answers(run, place, examples, number),
        (self._grounded(run, place, examples), image_N),
      ]
      if chosen:
        groups = [({k: c[k] for k in c if k in chosen}, of) for c, of in groups]
      self.names = [name for columns, _ in groups for name in columns]
      self.sums.append(self._sums(groups))

  def _fill(self, runs, examples, found):
    tables = [metrics.Targets() for _ in runs]
    bar = tqdm.tqdm(examples, "scoring", unit="example", file=sys.stderr, disable=None)
    for i, example in enumerate(bar):
      self.iou |= {(place, i): [] for place in range(len(runs))}
      for k, rle in enumerate(example.true):
        true_HW = predictions.decode(rle)  # one at a time: a line may hold thousands
        for place, run in enumerate(runs):
          row = _row(run, example, place, k, true_HW, tables[place], found)
          self.iou[place, i].append(float(metrics.iou(row)))
      self.targets += len(example.true)
    return tables

  def _grounded(self, run, place, examples):
    """sqrt(ROUGE-L of the answer x IoU) of each target, as in `line_metrics`."""
    said, gold, iou = [], [], []
    named = _names_targets(run)
    for i, example in enumerate(examples):
      talk = example.talks[place]
      names = iter([target.name for target in talk.targets])
      golds = [_gold(turn, names, named) for turn in talk.turns]
      said += [talk.turns[target.turn].answer for target in talk.targets]
      gold += [golds[target.turn] for target in talk.targets]
      iou += self.iou[place, i]
    overlap_N = rouge_l(
      *([text[:MOST_LETTERS] for text in side] for side in (said, gold))
    )
    scores_N = np.sqrt(np.asarray(overlap_N, float) * np.array(iou, float))
    return {GROUNDED: (scores_N, np.ones(len(scores_N)))}

  def _sums(self, groups):
    parts = [
      paired.image_sums(columns, image_N, len(self.images))
      for columns, image_N in groups
      if columns
    ]
    return paired.Sums(
      *(np.concatenate(sides, 1) for sides in zip(*parts, strict=True))
    )


def metric_names() -> list[str]:
  """Every metric that runs are compared by."""
  none = np.zeros(0)
  answers = metrics.seg_columns(none, none)
  return [
    *metrics.metric_columns(metrics.Targets().table()),
    *answers,
    "rouge_l",
    GROUNDED,
  ]


def _row(run, example, place, k, true_HW, table, found):
  """The row of one target of a run; notes a mask that does not fit."""
  talk = example.talks[place]
  target = talk.targets[k]
  pred_HW, reason = predicted(target.mask, true_HW.shape)
  if reason:
    where = f"{talk.id}, turn {target.turn + 1}: {reason}"
    found.add("wrong_mask", run, talk.line, where)
  return table.add(
    pred_HW, true_HW, image=example.image, conversation=talk.id, turn=target.turn
  )


def predicted(rle, shape):
  """(mask_HW bool, "") of a prediction; an empty one and why where it does not fit."""
  empty_HW = np.zeros(shape, bool)
  if rle is None:
    return empty_HW, ""
  if not _fits(rle, shape):
    return empty_HW, f"a mask of size {str(rle['size'])[:40]}, want {list(shape)}"
  try:
    return predictions.decode(rle), ""
  except ValueError as error:
    return empty_HW, str(error)


def _fits(rle, shape):
  """Compared before it is decoded: a mask of another size may be of any size."""
  return isinstance(rle["size"], list) and rle["size"] == list(shape)


def _answers(run, place, examples, number):
  """(columns over answers, number of each one's image)."""
  due, made, said, gold, image = [], [], [], [], []
  named = _names_targets(run)
  for example in examples:
    talk = example.talks[place]
    names = iter([target.name for target in talk.targets])
    for turn in talk.turns:
      text = _gold(turn, names, named)
      due.append(count_segs(text))
      made.append(turn.num_seg)
      said.append(turn.answer)
      gold.append(text)
      image.append(number[example.image])
  columns = metrics.seg_columns(np.array(due, int), np.array(made, float))
  texts = ([text[:MOST_LETTERS] for text in side] for side in (said, gold))
  scores_N = rouge_l(*texts)
  columns["rouge_l"] = (scores_N, np.ones(len(scores_N)))
  return columns, image


def _gold(turn, names, named):
  return controls.with_names(turn.gold, names) if named else turn.gold


def _names_targets(run):
  """Whether the run's model names its targets, "[OBJ]name[SEG]": the gold does not."""
  told = predictions.at(run.about, "config", "data", "name_targets", kind=bool)
  if told is not None:
    return told
  return any(OBJ_TOKEN in turn.answer for talk in run.talks for turn in talk.turns)
