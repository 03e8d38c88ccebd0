"""A converted checkpoint: the whole model in our names, as safetensors.

DIR/config.json                 a run (config.run.RunConfig), as `miras train` writes it
DIR/tokenizer/
DIR/params/model*.safetensors   our leaves by path; `llm/layers/...` stacked
DIR/params/index.json           in which file each leaf is
DIR/card.md                     a model card, for people to complete
DIR/manifest.json               SHA-256 of every file, where they come from
"""

import pathlib
import re

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from input_pipeline.regular_file import SMALL_JSON, read_bytes
from miras_jax.checkpoint import reading, workdir
from miras_jax.config.run import RunConfig
from miras_jax.convert.files.safetensors_file import SafetensorsFile, read_index
from miras_jax.convert.files.stream import file_sha256, read_manifest
from miras_jax.convert.files.tensors import TensorInfo
from miras_jax.convert.outputs import FORMAT, INDEX, is_converted
from miras_jax.convert.sources import read_settings
from miras_jax.convert.tree import STACKED, Tree
from miras_jax.errors import UserError
from miras_jax.storage import copies

_ADAPTERS = (
  "; leave llama.lora_rank and llama.lora_targets to the folder, or make one without"
  " adapters: miras convert --merge-lora"
)


class FolderTree(Tree):
  """The leaves of a converted folder."""

  def __init__(self, folder):
    folder = copies.fetch(folder)
    self.folder = pathlib.Path(folder)
    self.manifest = read_manifest(folder)
    if self.manifest.get("format") != FORMAT:
      raise UserError(
        f"{folder}: format {self.manifest.get('format')!r}, want {FORMAT!r}; is it the"
        " result of `miras convert`?"
      )
    self.new = self.manifest.get("new", [])  # paths of parts that are random numbers
    self.config = _read_config(self.folder / "config.json")
    self._check_config()
    self.tokenizer = self.folder / "tokenizer"
    self.settings = read_settings(self.folder, "language_model.json")
    self._files, self._file_of, self.infos = {}, {}, {}
    for path, file in read_index(self.folder / INDEX).items():
      if file not in self._files:
        self._files[file] = SafetensorsFile(file)
      if path not in self._files[file].infos:
        raise UserError(f"{file}: {path!r} is missing, which the index puts there")
      self._file_of[path] = self._files[file]
      self.infos[path] = self._files[file].infos[path]

  def _check_config(self):
    """UserError for a config that is not that of the weights beside it."""
    path, written = self.folder / "config.json", self.manifest["files"]["config.json"]
    if file_sha256(path) != written["sha256"]:
      raise UserError(
        f"{path}: not as it was written with these weights; put it back, and say what a"
        " run should do otherwise where it starts, e.g. --config.model.state=dense"
      )

  def read(self, path, layer=None):
    return self._file_of[path].read(path, layer=layer)

  def identity(self):
    """JSON-ready: another answer means another content."""
    return {"path": str(self.folder), "manifest": self.manifest["files"]}

  def close(self):
    for file in self._files.values():
      file.close()


class WorkdirTree(Tree):
  """The leaves of a `miras train` folder, trained ones from their moving average if
  there is one; `reading.HOST_BYTES` of them are in memory at a time, or one leaf."""

  new = ()  # parts that were never trained: a run has none

  def __init__(self, checkpoint):
    self.folder, self.step = workdir.locate(checkpoint)
    folder, self.settings = self.folder, {}
    self.config, self.tokenizer = reading.read_config(folder), folder.tokenizer
    self.infos, self._where, self._group_of, self._arrays = {}, {}, {}, {}
    saved = self._leaves(folder.step(self.step))
    part = "ema/" if any(k.startswith("ema/") for k in saved) else "trainable/"
    self._add(folder.step(self.step), saved, part)
    self._add(folder.frozen, self._leaves(folder.frozen), "params/")

  def read(self, path, layer=None):
    if path not in self._arrays:
      self._arrays = {}  # freed before the next ones come
      self._arrays = self._read(path)
    array = self._arrays[path]
    return array if layer is None else array[layer]

  def identity(self):
    """JSON-ready: another answer means another content."""
    leaves = {key: entry for _, key, entry in self._where.values()}
    return {"path": str(self.folder.path), "step": self.step, "leaves": leaves}

  def close(self):
    self._arrays = {}

  def _leaves(self, folder):
    try:
      return reading.read_table(folder)
    except reading.Damaged as damage:
      raise UserError(f"{folder} is damaged: {damage}") from None

  def _add(self, folder, leaves, part):
    own = {key: entry for key, entry in leaves.items() if key.startswith(part)}
    for group in reading.groups(own):
      paths = {key.removeprefix(part): key for key in group}
      for path, key in paths.items():
        entry = own[key]
        self.infos[path] = TensorInfo(tuple(entry[0]), jax.numpy.dtype(entry[1]))
        self._where[path] = (folder, key, entry)
        self._group_of[path] = paths

  def _read(self, path):
    """{path: array} of the leaves that are read together with `path`."""
    folder, paths = self._where[path][0], self._group_of[path]
    try:
      arrays = reading.read_on_host(folder, paths.values())
    except reading.Damaged as damage:
      raise UserError(f"{folder} is damaged: {damage}") from None
    return {path: arrays[key] for path, key in paths.items()}


def open_tree(path) -> Tree:
  """The leaves of a converted folder, a workdir or one of its steps. UserError."""
  return FolderTree(path) if is_converted(path) else WorkdirTree(path)


def load_params(folder, shapes=None, *, optional=(), spare=()):
  """(nested dict of arrays, paths that were not there) of what `open_tree` opens.

  shapes    nested dict of ShapeDtypeStruct, with shardings or without: what is wanted,
            in which dtype and where; None takes all as it is, on the first device
  optional  regexes of paths that may be missing (fresh adapters)
  spare     regexes of paths that are left out where they are not wanted

  A device's part is read layer by layer: the host never holds more than one leaf's
  part. Raises UserError naming the first leaf that is missing or of another shape.
  """
  with open_tree(folder) as tree:
    wanted = _all(tree) if shapes is None else flatten_dict(shapes, sep="/")
    missing = _check(tree, wanted, optional)
    _check_spare(tree, wanted, spare)
    loaded = {
      path: _load(tree, path, shape)
      for path, shape in wanted.items()
      if path not in missing
    }
  return unflatten_dict(loaded, sep="/"), missing


def load_run(folder, *, sharding=None):
  """(RunConfig, params, tokenizer folder, 0), as `checkpoint.reading.load_run`."""
  with FolderTree(folder) as tree:
    shapes = {
      path: jax.ShapeDtypeStruct(
        info.shape,
        info.dtype,
        sharding=sharding(path, info.shape, info.dtype)
        if callable(sharding)
        else sharding,
      )
      for path, info in tree.infos.items()
    }
    config, tokenizer = tree.config, tree.tokenizer
  params, _ = load_params(folder, unflatten_dict(shapes, sep="/"))
  return config, params, tokenizer, 0


def _all(tree):
  return {k: jax.ShapeDtypeStruct(i.shape, i.dtype) for k, i in tree.infos.items()}


def _check_spare(tree, wanted, spare):
  for path in sorted(tree.infos.keys() - wanted.keys()):
    if not any(re.search(pattern, path) for pattern in spare):
      hint = _ADAPTERS if "/lora_" in path else ""
      raise UserError(f"{tree.folder}: {path!r} has no place in this model{hint}")


def _check(tree, wanted, optional):
  """Paths of `wanted` that the folder lacks and may lack."""
  missing = sorted(wanted.keys() - tree.infos.keys())
  for path in missing:
    if not any(re.search(pattern, path) for pattern in optional):
      raise UserError(f"{tree.folder}: no {path!r}, which this model has")
  for path in wanted.keys() - set(missing):
    shape, info = wanted[path], tree.infos[path]
    if tuple(shape.shape) != info.shape:
      raise UserError(
        f"{tree.folder}: {path!r} has shape {list(info.shape)}, this model wants"
        f" {list(shape.shape)}"
      )
  return missing


def _load(tree, path, shape):
  """One leaf on its devices."""
  sharding = getattr(shape, "sharding", None)
  if sharding is None:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

  def part(index):
    return _part(tree, path, index).astype(shape.dtype, copy=False)

  return jax.make_array_from_callback(tuple(shape.shape), sharding, part)


def _part(tree, path, index):
  """Entries `index`, a tuple of slices, of a leaf."""
  if not STACKED.match(path):
    return np.ascontiguousarray(tree.read(path)[index])
  layers = range(*index[0].indices(tree.infos[path].shape[0]))
  first = tree.read(path, layers[0])[index[1:]]
  out = np.empty((len(layers), *first.shape), first.dtype)
  for i, layer in enumerate(layers):
    out[i] = first if i == 0 else tree.read(path, layer)[index[1:]]
  return out


def _read_config(path):
  try:
    return RunConfig.from_json(read_bytes(path, SMALL_JSON).decode())
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise UserError(f"{path}: cannot be read: {error}") from None
