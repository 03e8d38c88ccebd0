"""Scores records: free-running, teacher-forced and on controls, by every metric.

See the head of command.py for what each of these is. Work is cut into batches, always
the same for the same records and options, so that processes share them and a run that
was killed goes on with those that are missing: `run` does them, `conclude` adds up.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence

import numpy as np
import tqdm

from input_pipeline import examples, image_ops
from input_pipeline.conversation import count_segs
from miras_jax import drawing
from miras_jax.errors import UserError
from miras_jax.evaluation import (
  altered,
  controls,
  dependence,
  kept,
  kinds,
  line_metrics,
  metrics,
  scoring,
  state,
  state_jobs,
  text_metrics,
)
from miras_jax.evaluation.collected import FORCED, Collected, line_of
from miras_jax.evaluation.parts import Parts
from miras_jax.inference import memory, rollout

VIEW_CACHE_BYTES = 2**29
DRAWN = 1024  # pixels of a side of an example


@dataclasses.dataclass(frozen=True)
class Options:
  """How to evaluate; the command line's flags. state: whose masks are earlier ones, of
  state_jobs.STATES. masks_only: the free-running pass alone, and of its masks the
  areas."""

  history: str = "model"
  state: str = "own"
  batch_size: int = 64
  max_new_tokens: int = 64
  controls: bool = True
  control_sample: int = altered.SAMPLE
  meteor: bool = False
  masks_only: bool = False
  resamples: int = 1000
  seed: int = 0


@dataclasses.dataclass
class Evaluation:
  """What `evaluate` gives: the object of metrics.json without config and checkpoint,
  the lines of predictions.jsonl, and `example(i)` to look at line i."""

  result: dict
  predictions: Sequence
  example: object


def evaluate(loaded, records, options, write=lambda line: None, image_of=None):
  """Scores `records` (SegConversation) by every metric -> Evaluation.

  image_of(i): the encoded image of record i, where the records do not hold it.
  write: gets each line of predictions.jsonl as soon as there is one, in any order. A
  record that cannot be scored is named, counted (`data.failed`) and left out. Raises
  UserError where that is every one.
  """
  work, parts = Work(loaded, records, options, image_of), Parts.temporary()
  work.run(parts, write)
  return work.conclude(parts)


class Work:
  """The batches of an evaluation, the same in every process.

  generator: that of `loaded`, where several evaluations share one.
  """

  def __init__(self, loaded, records, options, image_of=None, generator=None):
    self._loaded, self._records, self._options = loaded, records, options
    self._generator = generator or loaded.generator(options.max_new_tokens)
    self._views = ImageViews(records, loaded.data, image_of)
    with_controls = options.controls and not options.masks_only
    self._plan = controls.plan(
      records,
      gold=options.history == "gold",
      enabled=with_controls,
      sample=options.control_sample,
    )
    self._swaps = self._give_slots(with_controls)
    size = options.batch_size
    self._talks = rollout.batches(self._plan.jobs, size)
    every = range(0 if options.masks_only else len(records))
    self._forced = [every[i : i + size] for i in range(0, len(every), size)]

  def _give_slots(self, with_controls):
    """Jobs with earlier masks that are not the model's own; the swaps among them."""
    state, records, data = self._options.state, self._records, self._loaded.data
    if not memory.has_state(data):
      if state != "own":
        raise UserError(f"--state={state}: this model looks at no earlier masks")
      return []
    swaps = []
    if with_controls and state != "none":
      sample = self._options.control_sample
      self._plan, swaps = state_jobs.with_swaps(self._plan, records, data, sample)
    if state == "gold":
      self._plan = state_jobs.with_gold_slots(self._plan, records, data)
    return swaps

  def lines(self, parts):
    """The lines of predictions.jsonl whose jobs are in `parts`."""
    keys = (f"talk/{i}" for i in range(len(self._records)))
    yield from filter(None, (line_of(parts[key]) for key in keys if key in parts))

  def run(self, parts, write=lambda line: None, share=(0, 1)):
    """Does every batch whose results are not in `parts`, or a process's share of them.

    share: number of this process, of how many.
    """
    process, processes = share
    mine = slice(process, None, processes)
    talks = _missing(parts, "talk", self._talks)
    forced = _missing(parts, "forced", self._forced)
    total, left = len(self._talks + self._forced), len(talks + forced)
    if left < total and process == 0:
      print(f"goes on: {total - left} of {total} batches are there", file=sys.stderr)
    scorer = scoring.Scorer(
      self._plan,
      self._records,
      self._views,
      self._loaded.data.sam_size,
      full=not self._options.masks_only,
    )
    with parts.appender(process) as file:
      self._talk(talks[mine], scorer, file.write, write, process == 0)
      self._force(forced[mine], scorer, file.write, process == 0)
    parts.find()

  def _talk(self, groups, scorer, keep, write, shown):
    runner = rollout.Rollout(
      self._loaded,
      self._generator,
      self._views,
      batch_size=self._options.batch_size,
      most_masks=max((len(record.targets) for record in self._records), default=0),
      earlier=self._options.state != "none",
    )
    jobs = self._plan.jobs
    for group in _bar("free-running", groups, shown):
      for job, answers in zip(
        group, runner.talk([jobs[j] for j in group]), strict=True
      ):
        result = {"key": f"talk/{job}"} | scorer.job(job, answers)
        keep(result)
        if line := line_of(result):
          write(line)

  def _force(self, groups, scorer, keep, shown):
    forced = rollout.Forced(
      self._loaded,
      self._views,
      batch_size=self._options.batch_size,
      earlier=self._options.state != "none",
    )
    for group in _bar("teacher-forced", groups, shown):
      found = forced.masks({i: self._records[i] for i in group})
      for i in group:
        keep({"key": f"forced/{i}"} | scorer.forced(i, found[i]))

  def collect(self, parts) -> Collected:
    """The results of all batches. UserError where no record could be scored."""
    forced = not self._options.masks_only
    return Collected(self._plan, len(self._records), parts, self._talks, forced)

  def conclude(self, parts) -> Evaluation:
    """Every metric of the results of all batches."""
    found, options = self.collect(parts), self._options
    tables = dict(found.tables)
    main, forced = tables.pop(kept.FREE), tables.pop(FORCED)
    gold_history = tables.pop(altered.GOLD, {"image": []})
    good = [self._records[i] for i in found.sound]
    sampling = {"resamples": options.resamples, "seed": options.seed}
    told = line_metrics.LineMetrics(named=self._loaded.data.name_targets, **sampling)
    for line in found.lines:
      told.add(line)
    result = {
      "metrics": metrics.mask_metrics(main, **sampling)
      | _answer_metrics(good, found.answers, self._loaded, options.meteor, sampling)
      | told.metrics(),
      "controls": {
        name: metrics.mask_metrics(dependence.as_due(name, table), **sampling)
        for name, table in tables.items()
      },
      "control_measures": {name: dependence.measure(name) for name in tables},
      "dependence": dependence.dependence(tables, found.beside, **sampling),
      "teacher_forced": metrics.mask_metrics(forced, **sampling),
      "per_turn": metrics.per_turn(main, **sampling),
      "history_gap": dependence.history_gap(
        gold_history, found.beside.get(altered.GOLD), **sampling
      ),
      "intent_drift": told.intent_drift(),
      "calibration": told.calibration(),
      "data": self._counts(found),
    }
    if by_kind := kinds.measures(main, good, **sampling):
      result["kinds"] = by_kind
    if measured := self._state(found, sampling):
      result["state"] = measured

    def example(i):
      place = found.sound[i]
      image = self._views.image(place)
      return _example(good[i], found.lines[i], found.masks_of(place), image)

    return Evaluation(result, found.lines, example)

  def _state(self, found, sampling):
    """What earlier masks are worth, of conversations with several."""
    held = self._options.state if memory.has_state(self._loaded.data) else "none"
    swaps = []
    for record, place, _, held_rle in self._swaps:
      if record in found.sound:
        masks = found.places_of(record, state_jobs.SWAPPED)
        target = self._records[record].targets[place][1]
        image = controls.image_key(self._records[record])
        swaps.append((image, masks.get(place), held_rle, target))
    return state.measures(found.lines, swaps, held=held, **sampling)

  def _counts(self, found):
    """What was scored, and what was not."""
    good = [self._records[i] for i in found.sound]
    return {
      "conversations": len(good),
      "images": len({controls.image_key(record) for record in good}),
      "targets": len(found.tables[kept.FREE]["image"]),
      "history": self._options.history,
      "questions_too_long": found.refused,
      "questions_shortened": found.shortened,
      "failed": [found.failed[i] for i in sorted(found.failed)],
      "metrics_left_out": text_metrics.left_out(self._options.meteor),
    } | self._plan.counts


def _missing(parts, kind, groups):
  return [g for g in groups if not all(f"{kind}/{number}" in parts for number in g)]


def _bar(title, groups, shown):
  bar = {"desc": title, "unit": "batch", "file": sys.stderr}
  return tqdm.tqdm(groups, disable=None if shown else True, **bar)


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


def _answer_metrics(records, answers, loaded, with_meteor, sampling):
  """[SEG] rates over answers, and the text metrics. answers: (text, number of [SEG]) of
  each turn of each record."""
  image, due, produced, said, gold = [], [], [], [], []
  for record, turns in zip(records, answers, strict=True):
    for (answer, count), text in zip(turns, spoken(record, loaded.data), strict=True):
      image.append(controls.image_key(record))
      due.append(count_segs(text))
      produced.append(count)
      said.append(answer)
      gold.append(text)
  columns = metrics.seg_columns(np.array(due), np.array(produced))
  rates = metrics.summarise(columns, image, **sampling)
  return rates | text_metrics.text_metrics(
    said, gold, image, with_meteor=with_meteor, **sampling
  )


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
    if len(masks) == len(record.targets)  # a control may be of some of them
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
