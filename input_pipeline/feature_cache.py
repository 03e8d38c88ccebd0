"""Features of frozen encoders on disk: one record an image, found by the image's bytes.

    DIR/cache.json                what was cached: features, shapes, weights, settings
    DIR/part-00003.array_record   records: sizes of the image, then its features
    DIR/part-00003.json           the images of that part, in order; written last

A part without its JSON file is unfinished. An image is known by the SHA-256 of its
encoded bytes, so that a photograph that was changed is not taken for the cached one.
Which features there are, and their types, is in `batch_table.TABLE`.
"""

import hashlib
import json
import os
import pathlib
import threading

import numpy as np

from input_pipeline import batch_table
from miras_jax.errors import UserError
from miras_jax.storage import copies

HEADER = 16  # valid_hw and original_hw, int32 each
# One image a chunk: random access reads nothing else.
WRITE_OPTIONS = "group_size:1,uncompressed"
READ_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def digest(image):
  """What an image is known by."""
  return hashlib.sha256(image).hexdigest()


def part_name(index):
  return f"part-{index:05d}"


def is_done(folder, index):
  """Whether a part is complete."""
  return (folder / f"{part_name(index)}.json").exists()


class PartWriter:
  """Writes one part; it counts only once `close` has returned.

  names: features, in the order of the manifest.
  """

  def __init__(self, folder, index, names):
    from array_record.python import array_record_module

    self._path = folder / f"{part_name(index)}.array_record"
    self._half = folder / f"{part_name(index)}.tmp"
    self._writer = array_record_module.ArrayRecordWriter(str(self._half), WRITE_OPTIONS)
    self._names = names
    self._images = []

  def add(self, image_id, key, features, *, valid_hw, original_hw):
    """features: {name: array} of one image."""
    sizes = np.concatenate([valid_hw, original_hw]).astype("<i4")
    parts = [
      np.ascontiguousarray(features[name].astype(batch_table.TABLE[name].dtype))
      for name in self._names
    ]
    self._images.append([image_id, key])
    self._writer.write(b"".join(part.tobytes() for part in (sizes, *parts)))

  def skip(self, image_id):
    """An image of which no record is sound: known, without features."""
    self._images.append([image_id, ""])

  def close(self):
    self._writer.close()
    os.replace(self._half, self._path)
    body = {"bytes": self._path.stat().st_size, "images": self._images}
    half = self._path.with_suffix(".json.tmp")
    half.write_text(json.dumps(body))
    os.replace(half, self._path.with_suffix(".json"))


def read_manifest(folder):
  """What cache.json says; UserError where there is none."""
  try:
    return json.loads((pathlib.Path(folder) / "cache.json").read_text())
  except FileNotFoundError:
    raise UserError(
      f"data.cache={folder}: no finished cache there; make it with"
      f" miras data cache --config=... --out={folder}"
    ) from None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{folder}/cache.json: cannot be read: {error}") from None


# What JSON of another form than ours raises where it is used.
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


class FeatureCache:
  """Reads a cache. Raises UserError, naming it, for whatever is missing or damaged.

  shapes: {feature: its shape for one image}. sizes: the lengths of these by letter.
  """

  def __init__(self, folder):
    self.folder = pathlib.Path(copies.fetch(folder))
    self.manifest = read_manifest(self.folder)
    self.image_ids = set()
    self._places = {}  # digest -> (part, number in it)
    self._readers = {}
    self._lock = threading.Lock()
    try:
      self.shapes = {k: tuple(v) for k, v in self.manifest["features"].items()}
      self.sizes = self._sizes()
      for part in range(self.manifest["parts"]):
        self._index(part)
    except DAMAGE as error:
      raise self._broken(f"its JSON files are damaged: {error!r}") from None

  def _sizes(self):
    sizes = {}
    for name, shape in self.shapes.items():
      if name not in batch_table.feature_names():
        raise self._broken(f"it holds {name}, which this version does not know")
      try:
        sizes |= batch_table.sizes_of(name, shape)
      except ValueError as error:
        raise self._broken(str(error)) from None
    return sizes

  def _index(self, part):
    path = self.folder / f"{part_name(part)}.json"
    data = path.with_suffix(".array_record")
    try:
      body = json.loads(path.read_text())
      size = data.stat().st_size
    except (OSError, ValueError) as error:
      raise self._broken(f"a file is missing or damaged: {error}") from None
    if size != body["bytes"]:
      raise self._broken(f"{data.name} has {size} bytes, {body['bytes']} were written")
    number = 0
    for image_id, key in body["images"]:
      self.image_ids.add(image_id)
      if key:
        self._places.setdefault(key, (part, number))
        number += 1

  def check_images(self, image_ids):
    """UserError when a data set has images that were not cached."""
    missing = sorted(set(filter(None, image_ids)) - self.image_ids)
    if missing:
      raise self._broken(
        f"it lacks {len(missing)} images of this data set, the first is {missing[0]}"
      )

  def views(self, image, name):
    """{feature: array, valid_hw, original_hw} of an encoded image.

    name: how a message calls it.
    """
    if (key := digest(image)) not in self._places:
      raise self._broken(f"image {name} is not the one that was cached")
    part, number = self._places[key]
    try:
      with self._lock:
        record = self._reader(part).read([number])[0]
    except Exception as error:  # array_record raises RuntimeError and ValueError
      raise self._broken(f"image {name} in {part_name(part)}: {error}") from None
    sizes = np.frombuffer(record, "<i4", 4)
    out = {"valid_hw": sizes[:2], "original_hw": sizes[2:]}
    start = HEADER
    for feature, shape in self.shapes.items():
      count = int(np.prod(shape))
      dtype = batch_table.TABLE[feature].dtype
      values = np.frombuffer(record, dtype, count, offset=start)
      out[feature] = values.reshape(shape)
      start += values.nbytes
    return out

  def _reader(self, part):
    if part not in self._readers:
      from array_record.python import array_record_module

      path = self.folder / f"{part_name(part)}.array_record"
      self._readers[part] = array_record_module.ArrayRecordReader(
        str(path), READ_OPTIONS
      )
    return self._readers[part]

  def _broken(self, why):
    return UserError(
      f"data.cache={self.folder}: {why}; make the cache again with miras data cache"
    )
