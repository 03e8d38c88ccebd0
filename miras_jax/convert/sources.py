"""Weight files as they are published: what a path means, and whose names are used.

A `Source` is one file or folder: its tensors by published name, the `Table` of those
names, and the JSON settings beside them. Nothing is read until `read`.
"""

import pathlib
from typing import NamedTuple

from input_pipeline.regular_file import is_there, read_object
from miras_jax.config.families import FAMILIES
from miras_jax.convert.files.safetensors_file import SafetensorsFile, read_index
from miras_jax.convert.files.tensors import TensorInfo
from miras_jax.convert.files.torch_file import TorchFile
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.errors import UserError

ALIASES = {"openclip": "convnext", "minigemini": "mini-gemini", "vicuna": "llama"}
# The order in which the names in a file are tried: the narrowest first.
_DETECT = (
  "llama", "clip", "clip-openai", "convnext", "sam", "sam-hf", "llava-hf", "miras",
  "peft",
)  # fmt: skip
# What a folder is searched for, best first; a name may be a pattern.
_INDEXES = ("*.safetensors.index.json", "*.bin.index.json")
_NAMES = (
  "model.safetensors", "adapter_model.safetensors", "open_clip_model.safetensors",
  "state_dict.safetensors", "pytorch_model.bin", "adapter_model.bin",
  "open_clip_pytorch_model.bin", "*.safetensors", "*.bin", "*.pth", "*.pt",
)  # fmt: skip
_TUNED = ("non_lora_trainables.bin", "non_lora_trainables.safetensors")
# Far above any source: the 70B and all encoders have 2,000.
MAX_TENSORS = 20_000


class Held(NamedTuple):
  """Where a tensor lies."""

  file: object
  info: TensorInfo


class Source:
  """One published checkpoint. `infos`: {key: TensorInfo}; `read(key)`; `settings`.

  named    paths that are sources of their own: not opened as what lies beside this one
  overlay  whether its tensors replace those of a base
  """

  def __init__(self, path, kind="auto", *, named=()):
    self.path = pathlib.Path(path)
    self.folder = self.path if self.path.is_dir() else self.path.parent
    self.files = []
    self.settings = read_settings(self.folder, "config.json")
    self.adapter = read_settings(self.folder, "adapter_config.json")
    self.miras = read_settings(self.folder, "miras_config.json")
    self.openclip = read_settings(self.folder, "open_clip_config.json")
    try:
      self._tensors = self._open(find_files(self.path, named))
      self.infos = {key: held.info for key, held in self._tensors.items()}
      self.kind = self._kind(kind)
      self.table = KINDS[self.kind]
    except BaseException:
      self.close()
      raise
    names = [pathlib.Path(file.path).name for file in self.files]
    over = any(n.startswith("adapter_model") or n in _TUNED for n in names)
    self.overlay = over or self.kind == "peft"

  def drop(self, key):
    """Goes on without a tensor."""
    del self.infos[key], self._tensors[key]

  def read(self, key):
    """The published tensor as a numpy array."""
    return self._tensors[key].file.read(key)

  def file_of(self, key):
    """Path of the file with this tensor, for messages."""
    return self._tensors[key].file.path

  def close(self):
    for file in self.files:
      file.close()

  def items(self):
    """(self, key, shape, table) of every tensor, as `mapping.plan` wants them."""
    for key, info in self.infos.items():
      yield self, key, info.shape, self.table

  def identity(self):
    """JSON-ready: another answer means another content."""
    stats = [(pathlib.Path(f.path), pathlib.Path(f.path).stat()) for f in self.files]
    files = [[p.name, s.st_size, s.st_mtime_ns] for p, s in stats]
    return {"path": str(self.path), "kind": self.kind, "files": files}

  def _open(self, found):
    tensors = {}
    for path, wanted in found.items():
      file = open_file(path)
      self.files.append(file)
      if wanted is not None and (absent := sorted(wanted - file.infos.keys())):
        raise UserError(f"{path}: {absent[0]!r} is missing, which the index puts there")
      for key, info in file.infos.items():
        if key in tensors:
          raise UserError(f"{path}: {key!r} is also in {tensors[key].file.path}")
        tensors[key] = Held(file, info)
      if len(tensors) > MAX_TENSORS:
        raise UserError(
          f"{path}: holds {len(tensors):,} tensors and more, want at most"
          f" {MAX_TENSORS:,}"
        )
    if not tensors:
      raise UserError(f"{self.path}: holds no tensor")
    return tensors

  def _kind(self, kind):
    kind = "llama" if kind in FAMILIES else ALIASES.get(kind, kind)
    if kind == "auto":
      return detect_kind(self.path, list(self.infos))
    if kind not in KINDS:
      names = ", ".join(dict.fromkeys([*KINDS, *FAMILIES, *ALIASES]))
      raise UserError(f"unknown --from={kind}; there are auto, {names}")
    return kind


def open_file(path):
  """SafetensorsFile or TorchFile, by the name and then by the first bytes."""
  path = pathlib.Path(path)
  if path.suffix == ".safetensors":
    return SafetensorsFile(path)
  if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
    return TorchFile(path)
  raise UserError(f"{path}: unknown suffix; want .safetensors, .pth, .pt or .bin")


def find_files(path, named=()):
  """{file: names an index promises in it, or None} of a file or a folder.

  Beside an adapter lies what was trained with it, unless it is `named` itself.
  """
  path = pathlib.Path(path)
  found = _find_files(path)
  if any(file.name.startswith("adapter_model") for file in found):
    folder = path if path.is_dir() else path.parent
    tuned = (folder / name for name in _TUNED)
    found |= {f: None for f in tuned if is_there(f) and f.resolve() not in named}
  return found


def _find_files(path):
  if not path.exists():
    raise UserError(f"{path}: no such file or folder")
  if not path.is_dir():
    return _of_index(path) if path.name.endswith(".index.json") else {path: None}
  for pattern in _INDEXES:
    if found := sorted(path.glob(pattern)):
      return _of_index(_only(path, found))
  for pattern in _NAMES:
    if found := sorted(path.glob(pattern)):
      return {_only(path, found): None}
  raise UserError(f"{path}: no .safetensors, .bin or .pth file in this folder")


def _only(folder, found):
  if len(found) > 1:
    names = ", ".join(p.name for p in found[:4])
    raise UserError(f"{folder}: which of {names}? Name the file itself")
  return found[0]


def _of_index(index):
  files = {}
  for name, file in read_index(index).items():
    files.setdefault(file, set()).add(name)
  for file in files:
    if not file.exists():
      raise UserError(f"{file}: missing, {index.name} names it")
  return files


def detect_kind(path, keys):
  """The first kind whose table knows all keys. UserError naming one that none knows."""
  best, most = None, -1
  for kind in _DETECT:
    known = _num_known(KINDS[kind], keys)
    if known == len(keys):
      return kind
    if known > most:
      best, most = kind, known
  table = KINDS[best]
  unknown = next(key for key in keys if not table.knows(key))
  raise UserError(
    f"{path}: unknown key {unknown!r}; nearest are the names of {best!r}, which know"
    f" {most} of {len(keys)}"
  )


def _num_known(table, keys):
  """How many keys a table knows; stops early where it knows none of the first."""
  known = 0
  for i, key in enumerate(keys):
    known += table.knows(key)
    if i > 20 and not known:
      break
  return known


def read_settings(folder, name):
  """A JSON object beside the weights; {} without the file."""
  return read_object(pathlib.Path(folder) / name)
