"""Answers records in batches, and tells of each what became of it."""

import concurrent.futures
import pathlib
from collections.abc import Iterator

import numpy as np

from input_pipeline import examples, image_ops, safe_files
from input_pipeline.records import RecordError
from miras_jax.inference import conversation, rollout
from miras_jax.segment import records

WINDOW = 16  # batches whose records are put in order of their turns
READERS = 4  # threads that decode images while the model answers


class Answering:
  """`of(listed)`: lines of predictions.jsonl and RecordErrors, in any order.

  gold: answers of the dialogue take the place of the model's in what later turns see.
  """

  def __init__(self, loaded, path, images_dir, *, batch_size, max_new_tokens, gold):
    self._loaded, self._path, self._gold = loaded, path, gold
    self._images = images_dir or pathlib.Path(path).parent
    self._batch_size, self._views = batch_size, {}
    generator = loaded.generator(max_new_tokens)
    self._rollout = rollout.Rollout(
      loaded, generator, self._views.__getitem__, batch_size=batch_size
    )

  def of(self, listed) -> Iterator[dict | RecordError]:
    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
      groups = self._groups(listed)
      coming = self._read(readers, next(groups, ()))
      while coming:
        current, coming = coming, self._read(readers, next(groups, ()))
        yield from self._answer(current)

  def _groups(self, listed):
    """Batches of records; those of one have about as many turns each."""
    size = self._batch_size * WINDOW
    for start in range(0, len(listed), size):
      window = list(records.read(self._path, listed[start : start + size]))
      window.sort(key=lambda asked: -len(asked.questions))
      for at in range(0, len(window), self._batch_size):
        yield window[at : at + self._batch_size]

  def _read(self, readers, group):
    return [(asked, readers.submit(self._views_of, asked)) for asked in group]

  def _views_of(self, asked):
    """Views of a record's image; RecordError where it cannot be read."""
    try:
      path = safe_files.resolve_inside(self._images, asked.image)
      data = safe_files.read_bytes(path, safe_files.MAX_IMAGE_BYTES)
      return examples.make_views(data, self._loaded.data)
    except FileNotFoundError:
      why = f"no such image file: {asked.image}"
    except (ValueError, image_ops.ImageError, MemoryError) as error:
      why = f"{asked.image}: {error or type(error).__name__}"
    raise RecordError(self._path, asked.number, why)

  def _answer(self, coming):
    sound = []
    self._views.clear()
    for asked, reading in coming:
      try:
        self._views[len(sound)] = reading.result()
        sound.append(asked)
      except RecordError as error:
        yield error
    if not sound:
      return
    talks = self._rollout.talk([self._job(*item) for item in enumerate(sound)])
    for k, (asked, answers) in enumerate(zip(sound, talks, strict=True)):
      yield self._line(asked, answers, self._views[k])
      yield from self._refusals(asked, answers)

  def _job(self, k, asked):
    gold = asked.answers if self._gold else ()
    return rollout.Job(k, asked.questions, gold)

  def _refusals(self, asked, answers):
    for turn, answer in enumerate(answers, 1):
      if answer.refused:
        yield RecordError(self._path, asked.number, f"turn {turn}: {answer.refused}")

  def _line(self, asked, answers, views):
    size = self._loaded.data.sam_size
    turns = [
      _turn(question, answer, conversation.masks_of(answer, views, size))
      for question, answer in zip(asked.questions, answers, strict=True)
    ]
    hw = [int(side) for side in np.asarray(views["original_hw"])]
    return {"id": asked.id, "image": asked.image, "size": hw, "turns": turns}


def _turn(question, answer, masks):
  turn = {
    "user": question,
    "answer": answer.text,
    "masks": [
      {"rle": mask.rle(), "score": round(mask.iou, 4), "span": list(mask.span)}
      for mask in masks
    ],
    "num_seg": answer.num_seg,
    "dropped_rounds": answer.dropped_rounds,
  }
  return turn | ({"refused": answer.refused} if answer.refused else {})
