"""The pickle of a state dict, as data.

A pickle is a program. This one is not run: a small interpreter knows the opcodes that
`torch.save` writes and the few names that tensors need. What a name would build stays
inert data; any other name or opcode is refused and named. `weights_only=True` of torch
itself was bypassed twice (CVE-2025-32434, CVE-2026-24747).
"""

import math
import pickletools
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

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


class Refused(Exception):
  """What a file asks for and does not get; `TorchFile` adds the file's name."""


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


_MARK = object()


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


class Interpreter:
  """A pickle's stack machine for the opcodes of a state dict.

  storage_bytes: storage key -> bytes that the archive holds; Refused when it has none.
  """

  def __init__(self, storage_bytes):
    self.storage_bytes = storage_bytes
    self.stack, self.memo = [], {}

  def run(self, data):
    """What the pickle describes. Raises Refused."""
    try:
      for opcode, arg, _ in pickletools.genops(data):
        if opcode.name == "STOP":
          return self._pop()
        step = _STEPS.get(opcode.name)
        if step is None:
          raise Refused(f"its data.pkl holds the opcode {opcode.name}: refused")
        step(self, arg)
    except (Refused, MemoryError):
      raise
    except (
      Exception
    ) as error:  # a damaged pickle breaks this or that rule of the format
      raise Refused(f"its data.pkl is damaged: {short(str(error))}") from None
    raise Refused("its data.pkl ends early")

  def _pop(self):
    value = self.stack.pop()
    if value is _MARK:
      raise Refused("its data.pkl is damaged: a mark out of place")
    return value

  def _pop_to_mark(self):
    at = len(self.stack) - 1
    while self.stack[at] is not _MARK:
      at -= 1
      if at < 0:
        raise Refused("its data.pkl is damaged: no mark")
    items = self.stack[at + 1 :]
    del self.stack[at:]
    return items

  def push(self, value):
    self.stack.append(value)

  def put(self, index):
    self.memo[index] = self.stack[-1]

  def get(self, index):
    self.push(self.memo[index])

  def memoize(self, _):
    self.put(len(self.memo))

  def mention(self, name):
    """GLOBAL. The name must be one that tensors need."""
    if name.startswith("__torch__"):
      raise Refused(TORCHSCRIPT)
    if name not in CALLS and _storage_dtype(name) is None:
      raise Refused(f"its data.pkl wants {short(name.replace(' ', '.'))}: refused")
    self.push(_Global(name))

  def mention_from_stack(self, _):
    name, module = self._pop(), self._pop()
    if not isinstance(name, str) or not isinstance(module, str):
      raise Refused("its data.pkl names something that is no text: refused")
    self.mention(f"{module} {name}")

  def call(self, _):
    """REDUCE: only of the names in CALLS, never of what the pickle made."""
    args, function = self._pop(), self._pop()
    if not isinstance(function, _Global) or function.name not in CALLS:
      raise Refused(f"its data.pkl calls {short(function)}: refused")
    if not isinstance(args, tuple):
      raise Refused(f"its data.pkl calls {function.name} with {short(args)}")
    self.push(CALLS[function.name](*args))

  def state(self, _):
    """BUILD: the attributes of a dict, i.e. its versions, are dropped."""
    self._pop()
    if not isinstance(self.stack[-1], dict):
      raise Refused(f"its data.pkl sets the state of {short(self.stack[-1])}: refused")

  def storage(self, _):
    pid = self._pop()
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

  def make_tuple(self, count):
    items = [self._pop() for _ in range(count)]
    self.push(tuple(reversed(items)))

  def append(self, _):
    value = self._pop()
    self._container(list).append(value)

  def extend(self, _):
    items = self._pop_to_mark()
    self._container(list).extend(items)

  def set_item(self, _):
    value, key = self._pop(), self._pop()
    self._set(self._container(dict), key, value)

  def set_items(self, _):
    items = self._pop_to_mark()
    target = self._container(dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
      self._set(target, key, value)

  def _set(self, target, key, value):
    if not isinstance(key, str | int):
      raise Refused(f"its data.pkl has the key {short(key)}, want text")
    target[key] = value

  def _container(self, kind):
    if type(self.stack[-1]) is not kind:
      raise Refused(f"its data.pkl fills {short(self.stack[-1])} as a {kind.__name__}")
    return self.stack[-1]


def _push(value):
  return lambda machine, _: machine.push(value)


def _literal(machine, value):
  machine.push(value)


def _nothing(machine, _):
  pass


# fmt: off
_STEPS = {
  "PROTO": _nothing,               "FRAME": _nothing,
  "NONE": _push(None),             "NEWTRUE": _push(True),
  "NEWFALSE": _push(False),        "MARK": _push(_MARK),
  "BININT": _literal,              "BININT1": _literal,
  "BININT2": _literal,             "LONG1": _literal,
  "BINFLOAT": _literal,            "BINUNICODE": _literal,
  "SHORT_BINUNICODE": _literal,
  "EMPTY_TUPLE": _push(()),
  "EMPTY_DICT": lambda m, _: m.push({}),
  "EMPTY_LIST": lambda m, _: m.push([]),
  "TUPLE": lambda m, _: m.push(tuple(m._pop_to_mark())),
  "TUPLE1": lambda m, _: m.make_tuple(1),
  "TUPLE2": lambda m, _: m.make_tuple(2),
  "TUPLE3": lambda m, _: m.make_tuple(3),
  "APPEND": Interpreter.append,   "APPENDS": Interpreter.extend,
  "SETITEM": Interpreter.set_item, "SETITEMS": Interpreter.set_items,
  "BINPUT": Interpreter.put,      "LONG_BINPUT": Interpreter.put,
  "BINGET": Interpreter.get,      "LONG_BINGET": Interpreter.get,
  "MEMOIZE": Interpreter.memoize,
  "GLOBAL": Interpreter.mention,  "STACK_GLOBAL": Interpreter.mention_from_stack,
  "REDUCE": Interpreter.call,     "BUILD": Interpreter.state,
  "BINPERSID": Interpreter.storage,
}
# fmt: on


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
