"""The data set that runs were scored on: true masks of old runs, and photographs."""

import collections
import sys

import tqdm

from input_pipeline import image_ops
from input_pipeline.open_source import open_source
from input_pipeline.records import RecordError
from miras_jax.compare.predictions import at
from miras_jax.errors import UserError


class DataSet:
  """`why`: what keeps it from being read, or "". Without it every look-up is None."""

  def __init__(self, source=None, why=""):
    self._source, self.why = source, why
    self._place = {}
    for i, name in enumerate(source.image_ids if source else ()):
      self._place.setdefault(name or f"record/{i}", i)  # as `miras eval` calls it

  def photograph(self, image):
    """image_HWC uint8, or None where it cannot be read."""
    if image not in self._place:
      return None
    try:
      record = self._source.load(self._place[image])
      return None if isinstance(record, RecordError) else _decode(record)
    except (UserError, OSError, ValueError, MemoryError):
      return None

  def targets(self) -> dict:
    """{(record id, questions): [RLEs of the targets of each such record, in order]}."""
    found = collections.defaultdict(list)
    count = len(self._source) if self._source else 0
    for i in tqdm.tqdm(range(count), "true masks", file=sys.stderr, disable=None):
      record = self._source.load(i)
      if not isinstance(record, RecordError):
        asked = tuple(text for role, text in record.turns if role == "user")
        found[record.id, asked].append([rle for _, rle in record.targets])
    return found


def _decode(record):
  return image_ops.decode_image(record.image) if record.image else None


def open_data(place, split, **folders) -> DataSet:
  """A split of a data set; folders: images_dir, masks_dir. UserError: not readable."""
  return DataSet(open_source(place, split, **folders))


def find(runs, args) -> DataSet:
  """What --data names, else what a run's metrics.json names.

  Raises UserError where --data cannot be read; of the others `why` tells.
  """
  folders = {"images_dir": args.images_dir, "masks_dir": args.masks_dir}
  if args.data:
    split = args.split or _first(runs, "split") or "val"
    return open_data(args.data, split, **folders)
  why = "no run says what its data set is"
  for run in runs:
    place, split = (at(run.about, "data", name) for name in ("dir", "split"))
    if not place or not split:
      continue
    try:
      own = _own_folders(run, place)
      return open_data(place, args.split or split, **own | _given(folders))
    except (UserError, OSError, ValueError) as error:
      why = f"the data set of {run.label} cannot be read: {error}"
  return DataSet(why=why)


def _first(runs, name):
  return next(filter(None, (at(run.about, "data", name) for run in runs)), None)


def _own_folders(run, place):
  """The folders of photographs and masks that a run's config names for its data."""
  if at(run.about, "config", "data", "dir") != place:
    return {}
  names = ("images_dir", "masks_dir")
  return {name: at(run.about, "config", "data", name) or None for name in names}


def _given(folders):
  return {name: folder for name, folder in folders.items() if folder}


def with_truth(examples, data) -> list:
  """The examples with every true mask. Raises UserError where one is not to be had."""
  if all(rle is not None for e in examples for rle in e.true):
    return examples
  if data.why:
    raise UserError(
      f"the predictions hold no true masks, and {data.why}: name the data set with"
      " --data=DIR, or run miras eval again"
    )
  known, used, out = data.targets(), collections.Counter(), []
  for example in examples:
    if all(rle is not None for rle in example.true):
      out.append(example)
      continue
    talk = example.talks[0]
    key = talk.id, tuple(turn.user for turn in talk.turns)
    place, used[key] = used[key], used[key] + 1
    rows = known.get(key, [])
    if place >= len(rows) or len(rows[place]) != len(talk.targets):
      raise UserError(
        f"{talk.id}: no true masks in the predictions, and the data set has no such"
        " conversation: name the one that was scored with --data=DIR --split=NAME"
      )
    out.append(example._replace(true=rows[place]))
  return out
