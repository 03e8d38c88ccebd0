"""The pickle of a state dict, as data.

A pickle is a program. This one is not run: to the opcodes of `plain_pickle` come the
few names that tensors need. What a name would build stays inert data; any other name
or opcode is refused and named. `weights_only=True` of torch itself was bypassed twice
(CVE-2025-32434, CVE-2026-24747).
"""

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from input_pipeline import plain_pickle
from input_pipeline.plain_pickle import Refused
from miras_jax.convert.files.tensors import is_name

MAX_DIMS = 8
MAX_EMPTY_AXIS = 1 << 16  # of a tensor without values: (0, 4096)
STORAGES = {
  "FloatStorage": np.float32,
  "DoubleStorage": np.float64,
  "HalfStorage": np.float16,
  "BFloat16Storage": ml_dtypes.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
# Trainers wrap the weights: {"model": {...}, "epoch": 3}.
WRAPPERS = ("state_dict", "model", "module", "model_state_dict")


class Storage(NamedTuple):
  """The bytes of one or more tensors: a member `data/<key>` of the archive."""

  key: str
  dtype: Any
  size: int


class Strided(NamedTuple):
  """A tensor as the pickle describes it; offset and strides count values."""

  storage: Storage
  offset: int
  shape: tuple
  strides: tuple

  @property
  def extent(self):
    """Values from the first to the last one used."""
    if 0 in self.shape:
      return 0
    return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


class _Global(NamedTuple):
  """A name that the pickle mentions. Nothing is imported for it."""

  name: str


def _rebuild_tensor(storage, offset, shape, strides, *_):
  """`torch._utils._rebuild_tensor_v2` as data, every number checked."""
  if not isinstance(storage, Storage):
    raise Refused(f"a tensor of {type(storage).__name__}, want a storage")
  for name, numbers in (("shape", shape), ("strides", strides)):
    if not isinstance(numbers, tuple) or any(type(n) is not int for n in numbers):
      raise Refused(f"tensor {name} {short(numbers)}, want a tuple of whole numbers")
    if any(n < 0 for n in numbers):
      raise Refused(f"negative tensor {name} {short(numbers)}")
  if len(shape) != len(strides) or len(shape) > MAX_DIMS:
    raise Refused(f"tensor shape {short(shape)} with strides {short(strides)}")
  if type(offset) is not int or offset < 0:
    raise Refused(f"tensor offset {short(offset)}, want a whole number from 0")
  tensor = Strided(storage, offset, shape, strides)
  count, longest = math.prod(shape), max(storage.size, MAX_EMPTY_AXIS)
  too_many = count > storage.size or any(n > longest for n in shape)
  if offset + tensor.extent > storage.size or too_many:
    raise Refused(
      f"a tensor of shape {short(shape)}, strides {short(strides)} and offset"
      f" {short(offset)} leaves its storage of {storage.size:,} values"
    )
  return tensor


def _rebuild_parameter(tensor, *_):
  if not isinstance(tensor, Strided):
    raise Refused(f"a parameter of {type(tensor).__name__}, want a tensor")
  return tensor


def _ordered_dict(*items):
  if items:
    raise Refused("an OrderedDict with arguments, which torch does not write")
  return {}


def _numbers(numbers=(), *more):
  """`torch.Size`, which trainers keep beside their weights."""
  if more or not isinstance(numbers, tuple) or any(type(n) is not int for n in numbers):
    raise Refused(f"a torch.Size of {short(numbers)}, want a tuple of whole numbers")
  return numbers


def _set(items=(), *more):
  """A set as the list of its items, not copied: a pickle may ask for that at length."""
  if more or not isinstance(items, list | tuple):
    raise Refused(f"a set of {short(items)}, want a list")
  return items


# All that a state dict calls; each takes data and gives data.
CALLS = {
  "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
  "torch._utils _rebuild_parameter": _rebuild_parameter,
  "collections OrderedDict": _ordered_dict,
  "torch Size": _numbers,
  "__builtin__ set": _set,
  "builtins set": _set,
}
TORCHSCRIPT = (
  "is TorchScript (torch.jit.save), a program and no state dict; take the weights of"
  " Hugging Face instead, or in a sandbox torch.save(torch.jit.load(...).state_dict(),"
  " ...)"
)


class Interpreter(plain_pickle.Machine):
  """A pickle's stack machine that knows the names and calls of a state dict, too.

  storage_bytes: storage key -> bytes that the archive holds; Refused when it has none.
  """

  name = "its data.pkl"

  def __init__(self, storage_bytes):
    super().__init__()
    self.storage_bytes = storage_bytes

  def mention_of_lines(self):
    """GLOBAL."""
    module, name = self.line().decode(), self.line().decode()
    self.mention(f"{module} {name}")

  def mention(self, name):
    """The name must be one that tensors need."""
    if name.startswith("__torch__"):
      raise Refused(TORCHSCRIPT)
    if name not in CALLS and _storage_dtype(name) is None:
      raise Refused(f"its data.pkl wants {short(name.replace(' ', '.'))}: refused")
    self.push(_Global(name))

  def mention_from_stack(self):
    name, module = self.pop(), self.pop()
    if not isinstance(name, str) or not isinstance(module, str):
      raise Refused("its data.pkl names something that is no text: refused")
    self.mention(f"{module} {name}")

  def call(self):
    """REDUCE: only of the names in CALLS, never of what the pickle made."""
    args, function = self.pop(), self.pop()
    if not isinstance(function, _Global) or function.name not in CALLS:
      raise Refused(f"its data.pkl calls {short(function)}: refused")
    if not isinstance(args, tuple):
      raise Refused(f"its data.pkl calls {function.name} with {short(args)}")
    self.push(CALLS[function.name](*args))

  def state(self):
    """BUILD: the attributes of a dict, i.e. its versions, are dropped."""
    self.pop()
    if not isinstance(self.stack[-1], dict):
      raise Refused(f"its data.pkl sets the state of {short(self.stack[-1])}: refused")

  def storage(self):
    pid = self.pop()
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
      raise Refused(f"its data.pkl refers to {short(pid)}, want a storage")
    _, kind, key, _, size = pid
    dtype = _storage_dtype(kind.name) if isinstance(kind, _Global) else None
    if dtype is None or not isinstance(key, str) or type(size) is not int or size < 0:
      raise Refused(f"its data.pkl refers to {short(pid)}, want a storage")
    found, itemsize = self.storage_bytes(key), np.dtype(dtype).itemsize
    if found != size * itemsize:
      want = short(size * itemsize)
      raise Refused(f"storage {short(key)} has {found} bytes, want {want}")
    self.push(Storage(key, dtype, size))


Interpreter.steps = plain_pickle.Machine.steps | {
  ord("c"): Interpreter.mention_of_lines,
  0x93: Interpreter.mention_from_stack,
  ord("R"): Interpreter.call,
  ord("b"): Interpreter.state,
  ord("Q"): Interpreter.storage,
}


def _storage_dtype(name):
  module, _, kind = name.partition(" ")
  return STORAGES.get(kind) if module == "torch" else None


def state_dict(found):
  """{name: Strided} of a state dict, out of a trainer's wrapper if there is one."""
  for _ in range(3):
    if not isinstance(found, dict):
      return {}
    flat = {k: v for k, v in found.items() if isinstance(v, Strided)}
    inner = [k for k in WRAPPERS if isinstance(found.get(k), dict)]
    if flat or len(inner) != 1:
      break
    found = found[inner[0]]
  if wrong := [k for k in flat if not is_name(k)]:
    raise Refused(f"a tensor is called {short(wrong[0])}, want printable text")
  return flat


def short(value, limit=60, depth=0):
  """Text of anything that a hostile file holds, cut off before it grows."""
  if isinstance(value, int) and abs(value) >= 1 << 64:
    return "a huge number"
  if isinstance(value, tuple | list):
    if depth == 2:  # six to the power of a depth that the file chooses
      return "..."
    inner = ", ".join(short(v, 20, depth + 1) for v in value[:6])
    return f"({inner}{', ...' if len(value) > 6 else ''})"[:limit]
  if isinstance(value, dict):
    return f"a dict of {len(value)}"
  text = value if isinstance(value, str) else repr(value)
  return text[:limit].encode("unicode_escape").decode()
