"""Scores records: free-running, teacher-forced and on controls, by every metric.

See the head of command.py for what each of these is.
"""

import dataclasses
import functools
import sys

import numpy as np
import tqdm

from input_pipeline import examples, image_ops, mask_ops
from input_pipeline.conversation import count_segs
from input_pipeline.records import RecordError
from input_pipeline.source import Source
from miras_jax import drawing
from miras_jax.errors import UserError
from miras_jax.evaluation import controls, metrics, text_metrics
from miras_jax.inference import rollout

VIEW_CACHE_BYTES = 2**29


@dataclasses.dataclass(frozen=True)
class Options:
  """How to evaluate; the command line's flags."""

  history: str = "model"
  batch_size: int = 64
  max_new_tokens: int = 64
  controls: bool = True
  resamples: int = 1000
  seed: int = 0


def read_records(source: Source, limit=None, *, shown) -> tuple[list, list]:
  """(records, problems): a defective record is named, counted and left out.

  limit: of sound records. shown: what the user called the data set. Raises UserError
  where no record is sound.
  """
  records, problems = [], []
  for i in range(len(source)):
    if limit is not None and len(records) == limit:
      break
    record = source.load(i)
    if isinstance(record, RecordError):
      problems.append(record.problem)
      print(f"{record.problem} (left out)", file=sys.stderr)
    else:
      records.append(record)
  if not records:
    raise UserError(f"{shown}: no usable record in {source.file}")
  return records, problems


@dataclasses.dataclass
class Evaluation:
  """What `evaluate` gives: the object of metrics.json without config and checkpoint,
  the lines of predictions.jsonl, and `example(i)` to look at."""

  result: dict
  predictions: list
  example: object


def evaluate(loaded, records, options):
  """Scores `records` (SegConversation) by every metric -> Evaluation."""
  views_of = view_cache(records, loaded.data)
  runner = rollout.Rollout(
    loaded,
    loaded.generator(options.max_new_tokens),
    views_of,
    batch_size=options.batch_size,
  )
  gold = options.history == "gold"
  plan = controls.plan(records, gold=gold, enabled=options.controls)
  answers = runner.run(plan.jobs, functools.partial(_bar, "free-running"))
  predicted = controls.collect(plan, answers, records, views_of, loaded.data.sam_size)
  tables = {
    name: score(records, masks, canny=name == "free_running")
    for name, masks in predicted.items()
  }
  forced_table = score(records, _forced(loaded, records, views_of, options))
  sampling = {"resamples": options.resamples, "seed": options.seed}
  main = tables["free_running"]
  spoken_turns = answers[: len(records)]  # the jobs of the free-running pass come first
  result = {
    "metrics": metrics.mask_metrics(main, **sampling)
    | _answer_metrics(records, spoken_turns, loaded, sampling),
    "controls": {
      name: metrics.mask_metrics(table, **sampling)
      for name, table in tables.items()
      if name != "free_running"
    },
    "teacher_forced": metrics.mask_metrics(forced_table, **sampling),
    "per_turn": metrics.per_turn(main, **sampling),
    "data": {
      "conversations": len(records),
      "images": len({controls.image_key(r) for r in records}),
      "targets": len(main["image"]),
      "history": options.history,
      "questions_too_long": runner.too_long,
      "questions_shortened": runner.shortened,
    }
    | plan.counts,
  }
  predictions = [
    _prediction(record, turns, predicted["free_running"][i])
    for i, (record, turns) in enumerate(zip(records, spoken_turns, strict=True))
  ]
  example = functools.partial(_example, records, spoken_turns, predicted, plan)
  return Evaluation(result, predictions, example)


def _bar(title, batches):
  return tqdm.tqdm(batches, desc=title, unit="batch", file=sys.stderr, disable=None)


def view_cache(records, data):
  """Function from a record's index to the views of its image, the latest ones kept."""
  first = {}
  for i, record in enumerate(records):
    first.setdefault(controls.image_key(record), i)
  bytes_each = 3 * (data.sam_size**2 + data.aux_size**2)

  @functools.lru_cache(maxsize=max(1, VIEW_CACHE_BYTES // bytes_each))
  def views(i):
    return examples.make_views(records[i].image, data)

  return lambda i: views(first[controls.image_key(records[i])])


def _forced(loaded, records, views_of, options):
  """Teacher-forced masks of every target, in the shape `score` wants."""
  forced = rollout.teacher_forced(
    loaded,
    records,
    views_of,
    batch_size=options.batch_size,
    progress=functools.partial(_bar, "teacher-forced"),
  )
  return [
    controls.at_original_size(logits, views_of(i), loaded.data.sam_size)
    for i, logits in enumerate(forced)
  ]


def score(records, masks, *, canny=False):
  """Table of all targets. `masks[i][k]` is the bool mask for target k of record i, or
  None where there was none: an empty mask."""
  targets = metrics.Targets(canny=canny)
  for record, predicted in zip(records, masks, strict=True):
    for (turn, index), (_, rle), mask in zip(
      controls.seg_slots(record), record.targets, predicted, strict=True
    ):
      true_HW = mask_ops.decode_rle(rle)
      pred_HW = np.zeros_like(true_HW) if mask is None else mask
      targets.add(
        pred_HW,
        true_HW,
        image=controls.image_key(record),
        conversation=record.id,
        turn=turn,
        index=index,
      )
  return targets.table()


def _answer_metrics(records, answers, loaded, sampling):
  """[SEG] rates over answers, and the text metrics."""
  image, due, produced, said, gold = [], [], [], [], []
  for record, turns in zip(records, answers, strict=True):
    for answer, text in zip(turns, spoken(record, loaded.data), strict=True):
      image.append(controls.image_key(record))
      due.append(count_segs(text))
      produced.append(answer.num_seg)
      said.append(answer.text)
      gold.append(text)
  columns = metrics.seg_columns(np.array(due), np.array(produced))
  rates = metrics.summarise(columns, image, **sampling)
  return rates | text_metrics.text_metrics(said, gold, image, **sampling)


def spoken(record, data):
  """The gold answers as the model was taught to say them: with target names or not."""
  names = iter([name for name, _ in record.targets])
  return [
    controls.with_names(text, names) if data.name_targets else text
    for role, text in record.turns
    if role == "assistant"
  ]


def _prediction(record, turns, masks):
  """One line of predictions.jsonl."""
  questions = [text for role, text in record.turns if role == "user"]
  gold = [text for role, text in record.turns if role == "assistant"]
  targets = []
  for (turn, index), (name, rle), mask in zip(
    controls.seg_slots(record), record.targets, masks, strict=True
  ):
    true = mask_ops.decode_rle(rle)
    pred = np.zeros_like(true) if mask is None else mask
    targets.append(
      {
        "turn": turn,
        "index": index,
        "name": name,
        "produced": mask is not None,
        "mask": mask_ops.encode_rle(pred),
        "iou": metrics.published_ciou(pred, true),
      }
    )
  return {
    "id": record.id,
    "image": record.image_id,
    "turns": [
      {"user": q, "answer": a.text, "gold": g, "num_seg": a.num_seg}
      for q, a, g in zip(questions, turns, gold, strict=True)
    ],
    "targets": targets,
  }


def _example(records, answers, predicted, plan, i):
  """Record i as an `drawing.Example`: target, prediction and the controls' masks."""
  record = records[i]
  image_HWC = image_ops.decode_image(record.image)
  true = tuple(mask_ops.decode_rle(rle) for _, rle in record.targets)
  panels = [
    drawing.Panel("image", image_HWC),
    drawing.Panel("target", image_HWC, true),
  ]
  for name, masks in predicted.items():
    # A missing mask stays as an empty one: colours go by the target's place.
    drawn = tuple(
      np.zeros_like(t) if m is None else m for t, m in zip(true, masks[i], strict=True)
    )
    title = "prediction" if name == "free_running" else name.replace("_", " ")
    panels.append(drawing.Panel(title, image_HWC, drawn))
  prediction = _prediction(record, answers[i], predicted["free_running"][i])
  ious = (f"{t['iou']:.2f} {t['name'] or 'nothing'}" for t in prediction["targets"])
  turns = tuple((t["user"], t["answer"], t["gold"]) for t in prediction["turns"])
  caption = f"IoU: {', '.join(ious)}" if true else "no target"
  return drawing.Example(record.id, turns, tuple(panels), caption)
