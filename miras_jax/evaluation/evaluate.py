"""Scores records: free-running, teacher-forced and on controls, by every metric.

See the head of command.py for what each of these is.
"""

import dataclasses
import functools
import sys

import numpy as np
import tqdm

from input_pipeline import examples, image_ops
from input_pipeline.conversation import count_segs
from miras_jax import drawing
from miras_jax.errors import UserError
from miras_jax.evaluation import controls, kept, metrics, scoring, text_metrics
from miras_jax.inference import rollout

VIEW_CACHE_BYTES = 2**29
MOST_MASKS = 32  # of a conversation; the model draws as many for every row of a batch
DRAWN = 1024  # pixels of a side of an example


@dataclasses.dataclass(frozen=True)
class Options:
  """How to evaluate; the command line's flags."""

  history: str = "model"
  batch_size: int = 64
  max_new_tokens: int = 64
  controls: bool = True
  resamples: int = 1000
  seed: int = 0


@dataclasses.dataclass
class Evaluation:
  """What `evaluate` gives: the object of metrics.json without config and checkpoint,
  the lines of predictions.jsonl, and `example(i)` to look at line i."""

  result: dict
  predictions: list
  example: object


def evaluate(loaded, records, options, write=lambda line: None, image_of=None):
  """Scores `records` (SegConversation) by every metric -> Evaluation.

  image_of(i): the encoded image of record i, where the records do not hold it.
  write: gets each line of predictions.jsonl as soon as there is one, in any order. A
  record that cannot be scored is named, counted (`data.failed`) and left out. Raises
  UserError where that is every one.
  """
  loaded, too_many = with_room(loaded, records)
  views = ImageViews(records, loaded.data, image_of)
  runner = rollout.Rollout(
    loaded,
    loaded.generator(options.max_new_tokens),
    views,
    batch_size=options.batch_size,
  )
  gold = options.history == "gold"
  plan = controls.plan(records, gold=gold, enabled=options.controls)
  masks = kept.Masks(plan, records, views.geometry, loaded.data.sam_size)
  scored = scoring.Scored(records, masks, views.problem, write)
  turns = runner.run(plan.jobs, functools.partial(_bar, "free-running"), scored.take)
  forced = rollout.teacher_forced(
    loaded,
    records,
    views,
    batch_size=options.batch_size,
    progress=functools.partial(_bar, "teacher-forced"),
    keep=scored.take_forced,
  )
  sound, tables = scored.tables(forced)
  main, forced_table = tables[kept.FREE], tables.pop(scoring.FORCED)
  good = [records[i] for i in sound]
  sampling = {"resamples": options.resamples, "seed": options.seed}
  result = {
    "metrics": metrics.mask_metrics(main, **sampling)
    | _answer_metrics(good, [turns[i] for i in sound], loaded, sampling),
    "controls": {
      name: metrics.mask_metrics(table, **sampling)
      for name, table in tables.items()
      if name != kept.FREE
    },
    "teacher_forced": metrics.mask_metrics(forced_table, **sampling),
    "per_turn": metrics.per_turn(main, **sampling),
    "data": {
      "conversations": len(good),
      "images": len({controls.image_key(r) for r in good}),
      "targets": len(main["image"]),
      "history": options.history,
      "questions_too_long": runner.too_long,
      "questions_shortened": runner.shortened,
      "more_masks_than_room": too_many,
      "failed": [scored.failed[i] for i in sorted(scored.failed)],
    }
    | plan.counts,
  }
  lines = [scored.lines[i] for i in sound]

  def example(i):
    masks_of = {name: found[sound[i]] for name, found in masks.of.items()}
    return _example(good[i], lines[i], masks_of, views.image(sound[i]))

  return Evaluation(result, lines, example)


def with_room(loaded, records):
  """(`loaded` with a mask for each [SEG] of any record, records that need too many).

  Training may pack rows of fewer; more than MOST_MASKS would take too much memory.
  """
  counts = [len(record.targets) for record in records]
  room = min(MOST_MASKS, max(counts, default=1))
  room = max(loaded.data.max_masks, room)
  data = dataclasses.replace(loaded.data, max_masks=room)
  return loaded._replace(data=data), sum(count > room for count in counts)


def _bar(title, batches):
  return tqdm.tqdm(batches, desc=title, unit="batch", file=sys.stderr, disable=None)


class ImageViews:
  """Function from a record's index to the views of its image, the latest ones kept.

  An image that cannot be read any more is a blank one: `problem(i)` says why.
  image_of(i): the encoded image of record i, by default what the record holds.
  """

  def __init__(self, records, data, image_of=None):
    self._records, self._data = records, data
    self.image = image_of or (lambda i: records[i].image)
    self._first, self._geometry, self._problems = {}, {}, {}
    for i, record in enumerate(records):
      self._first.setdefault(controls.image_key(record), i)
    bytes_each = 3 * (data.sam_size**2 + data.aux_size**2)
    most = max(1, VIEW_CACHE_BYTES // bytes_each)
    self._views = functools.lru_cache(maxsize=most)(self._make)

  def __call__(self, i):
    return self._views(self._place(i))

  def geometry(self, i):
    """{"valid_hw", "original_hw"} of record i's image, all of them kept."""
    if self._place(i) not in self._geometry:
      self(i)
    return self._geometry[self._place(i)]

  def problem(self, i):
    """Why record i's image is a blank one, or ""."""
    return self._problems.get(self._place(i), "")

  def _place(self, i):
    return self._first[controls.image_key(self._records[i])]

  def _make(self, place):
    try:
      views = examples.make_views(self.image(place), self._data)
    except (UserError, ValueError, MemoryError) as error:
      self._problems[place] = str(error) or type(error).__name__
      views = self._blank()
    self._geometry[place] = {k: views[k] for k in ("valid_hw", "original_hw")}
    return views

  def _blank(self):
    S, A = self._data.sam_size, self._data.aux_size
    hw = np.array([S, S], np.int32)
    return {
      "image_sam": np.zeros((S, S, 3), np.uint8),
      "image_aux": np.zeros((A, A, 3), np.uint8),
      "valid_hw": hw,
      "original_hw": hw,
    }


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


def _example(record, line, masks_of, image):
  """A line as a `drawing.Example`: target, prediction and the controls' masks."""
  image_HWC = image_ops.decode_image(image)
  pairs = {
    name: [
      kept.pair(rle, true) for rle, (_, true) in zip(masks, record.targets, strict=True)
    ]
    for name, masks in masks_of.items()
  }
  true = tuple(target for _, target in pairs[kept.FREE])
  panels = [_panel("image", image_HWC), _panel("target", image_HWC, true)]
  for name, masks in pairs.items():
    # A missing mask stays as an empty one: colours go by the target's place.
    title = "prediction" if name == kept.FREE else name.replace("_", " ")
    panels.append(_panel(title, image_HWC, tuple(mask for mask, _ in masks)))
  ious = (f"{t['iou']:.2f} {t['name'] or 'nothing'}" for t in line["targets"])
  turns = tuple((t["user"], t["answer"], t["gold"]) for t in line["turns"])
  caption = f"IoU: {', '.join(ious)}" if true else "no target"
  return drawing.Example(record.id, turns, tuple(panels), caption)


def _panel(title, image_HWC, masks=()):
  """A panel of at most DRAWN pixels a side: examples are held all at once."""
  if max(image_HWC.shape[:2]) > DRAWN:
    image_HWC, masks = drawing.fit(image_HWC, masks, DRAWN)
  return drawing.Panel(title, image_HWC, tuple(masks))
