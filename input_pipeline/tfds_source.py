"""Reads what `miras data build` wrote: one split of a TFDS folder as a source.

Names, dialogues and counts are in side files that the builder made, mapped or streamed:
opening takes the same time and memory for a hundred records and a million.
"""

import io
import json
import os
import threading

import numpy as np
from etils import epath

from input_pipeline.builders import finish, schema
from input_pipeline.compact import LazySequence
from input_pipeline.records import RecordError
from input_pipeline.source import Dialogue, Source
from miras_jax.errors import UserError

INFO = "dataset_info.json"
_UNFINISHED = (
  f"has no {finish.NAME}: its build is not finished, or it is not one of `miras data"
  " build`; run that again to go on"
)


def find(place: str | os.PathLike) -> list:
  """The built data sets at a place: itself, VERSION/ below it, or NAME/VERSION/."""
  return [path.parent for path in _glob(place, INFO)]


def _glob(place, name):
  """Files of a name at a place or up to two folders below it, where there are any."""
  root = epath.Path(place)
  for pattern in (name, f"*/{name}", f"*/*/{name}"):
    if found := sorted(root.glob(pattern)):
      return found
  return []


def read_dataset(place, split, images_dir=None, masks_dir=None) -> "BuiltDataset":
  """Opens one split of a built data set.

  Raises UserError: there is none, or several; no such split; folders of photographs or
  masks are given, which are inside the records.
  """
  if images_dir or masks_dir:
    raise UserError(f"{place}: is a built data set: it holds photographs and masks")
  folders = find(place)
  if not folders and (half := _glob(place, ".build")):
    raise UserError(f"{half[0].parent}: {_UNFINISHED}")
  if not folders:
    raise UserError(
      f"{place}: holds no {INFO}; `miras data build NAME --src=DIR --out={place}` makes"
      " a data set"
    )
  if len(folders) > 1:
    names = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in folders)
    raise UserError(f"{place}: holds several data sets, name one of {names}")
  made = _read_made(folders[0])
  if split not in made["splits"]:
    known = ", ".join(made["splits"])
    raise UserError(f"{place}: holds no split {split!r}; it has {known}")
  return BuiltDataset(folders[0], split, made["splits"][split])


def find_splits(place) -> list[str]:
  """Names of the splits of a built data set."""
  folders = find(place)
  return list(_read_made(folders[-1])["splits"]) if folders else []


def _read_made(folder):
  path = folder / finish.NAME
  try:
    made = json.loads(path.read_text())
    whole = all(map(_is_whole, made["splits"].values()))
    if made["format"] == finish.FORMAT and made["splits"] and whole:
      return made
  except FileNotFoundError:
    raise UserError(f"{folder}: {_UNFINISHED}") from None
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
    pass
  raise UserError(f"{path}: is damaged or of another version; build the data set anew")


def _is_whole(counts):
  prints = counts["fingerprint"], counts["files_fingerprint"]
  return all(isinstance(text, str) for text in prints) and all(
    isinstance(counts[name], int) for name in finish.SUMMED
  )


class BuiltDataset(Source):
  """One split; `load(i)` is conversation i. Reads the example that holds it."""

  def __init__(self, folder, split, counts):
    self.folder, self.split, self.counts = folder, split, counts
    self.file = f"{folder.parent.name}-{split}"
    self._first = self._array("first")  # conversations before each example
    self._images = self._array("images")
    self._check_index()
    self._examples = None
    self._kept = None  # (number, example): neighbours ask for the same one
    self._lock = threading.Lock()
    self.image_ids = LazySequence(len(self), self._image_id)

  def __len__(self):
    return int(self._first[-1])

  def load(self, i):
    i = range(len(self))[i]
    number = self._example_of(i)
    try:
      example = self._read(number)
      return schema.from_example(example, i - int(self._first[number]))
    except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError) as e:
      why = " ".join(str(e).split())[:120]
      return RecordError(self.file, i, f"cannot be read from its shard: {why}")

  def dialogues(self):
    """What each record says, from the builder's list; reads no photograph."""
    path = self.folder / f"index-{self.split}.dialogues.jsonl"
    count = 0
    for count, said in enumerate(_lines(path, _dialogue), 1):
      if count > len(self):
        break
      turns, names = said
      yield Dialogue(turns, names, bool(self.image_ids[count - 1]))
    if count != len(self):
      raise _damaged(path, f"has other than {len(self):,} lines")

  def fingerprint(self):
    return self.counts["fingerprint"]

  def files_fingerprint(self):
    return self.counts["files_fingerprint"]

  def rejected(self):
    """(file, record, reason) of each entry that the builder could not use."""
    return _lines(self.folder / f"rejected-{self.split}.jsonl", tuple)

  def notes(self):
    """The same of what was odd and is used."""
    return _lines(self.folder / f"notes-{self.split}.jsonl", tuple)

  def _example_of(self, i):
    return int(np.searchsorted(self._first, i, side="right")) - 1

  def _image_id(self, i):
    return self._images[self._example_of(i)].decode()

  def _read(self, number):
    kept = self._kept
    if kept and kept[0] == number:
      return kept[1]
    example = self._open()[number]
    self._kept = number, example
    return example

  def _open(self):
    """The examples; opened when the first is read, since it takes a moment."""
    with self._lock:
      if self._examples is None:
        import tensorflow_datasets as tfds

        try:
          builder = tfds.builder_from_directory(self.folder)
          self._examples = builder.as_data_source(
            split=self.split, decoders={"image": tfds.decode.SkipDecoding()}
          )
        except Exception as e:  # of protobuf, TFDS and etils, one for each damage
          files = f"{self.folder}/{INFO} or features.json"
          raise _damaged(files, e) from None
    return self._examples

  def _array(self, kind):
    """A side file, mapped; from a bucket it is read."""
    path = self.folder / f"index-{self.split}.{kind}.npy"
    try:
      if "://" in str(path):
        return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
      return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
      raise _damaged(path, e) from None

  def _check_index(self):
    """UserError where the side files are not those of one build."""
    first, images = self._first, self._images
    shapes = first.ndim == images.ndim == 1 and len(first) == len(images) + 1
    kinds = (first.dtype.kind, images.dtype.kind) == ("i", "S")
    if not shapes or not kinds or first[-1] != self.counts["conversations"]:
      path = self.folder / f"index-{self.split}.*.npy"
      raise _damaged(path, "do not fit each other")

  def __getstate__(self):
    return {"folder": self.folder, "split": self.split, "counts": self.counts}

  def __setstate__(self, state):
    self.__init__(**state)


def _lines(path, parse):
  """What `parse` makes of each line of a side file, read as it is asked for."""
  try:
    with path.open("rb") as lines:
      for line in lines:
        yield parse(json.loads(line))
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _damaged(path, error) from None


def _dialogue(said):
  return [tuple(turn) for turn in said["turns"]], said["names"]


def _damaged(path, why) -> UserError:
  why = " ".join(str(getattr(why, "strerror", None) or why).split())[:160]
  return UserError(f"{path}: {why}; build the data set anew")
