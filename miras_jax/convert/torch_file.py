"""Reads zip `.pth` and `.bin` files of torch without torch, one tensor at a time.

A pickle is a program. This one is not run: a small interpreter knows the opcodes that
`torch.save` writes and the few names that tensors need. What a name would build stays
inert data; any other name or opcode is refused and named. `weights_only=True` of torch
itself was bypassed twice (CVE-2025-32434, CVE-2026-24747).

Files are read, never mapped: a file that shrinks while it is mapped kills the process.
"""

import io
import os
import pickletools
import struct
import zipfile
import zlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from miras_jax.convert.tensors import Closing, TensorInfo, allocate, read_into
from miras_jax.errors import UserError

# Far above any real checkpoint: 2,000 tensors take about 0.3 MB of pickle.
MAX_PICKLE_BYTES = 8 << 20
MAX_DIRECTORY_BYTES = 64 << 20
MAX_DIMS = 16
CHUNK = 1 << 20

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


class TorchFile(Closing):
  """Tensors of a zip file of torch. `infos`: {name: TensorInfo}; `read(name)`.

  Raises UserError naming the file for anything that is not a plain state dict.
  """

  def __init__(self, path):
    self.path = path
    self._file = None
    try:
      self._file = open(path, "rb")
      self._archive = _Archive(self._file)
      self._tensors = self._find_tensors()
    except Refused as error:
      self.close()
      raise UserError(f"{path}: {error}") from None
    except OSError as error:
      self.close()
      raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UserError:
      self.close()
      raise
    self._whole = set()
    self.infos = {
      name: TensorInfo(t.shape, np.dtype(t.storage.dtype))
      for name, t in self._tensors.items()
    }

  def read(self, name):
    """The tensor as a numpy array of its own. Raises UserError for damaged bytes."""
    tensor = self._tensors[name]
    try:
      return self._read(tensor)
    except (Refused, OSError) as error:
      raise UserError(f"{self.path}: {name}: {error}") from None

  def _read(self, tensor):
    member = self._archive.member(f"data/{tensor.storage.key}")
    dtype = np.dtype(tensor.storage.dtype)
    start, length = tensor.offset * dtype.itemsize, tensor.extent * dtype.itemsize
    values = allocate((tensor.extent,), dtype)
    if length == member.size:
      read_into(self._file, member.start, values)
      if member.key not in self._whole:
        member.check(zlib.crc32(values.view(np.uint8)))
    else:  # a part of a storage: its sum needs a pass of its own, once
      if member.key not in self._whole:
        member.check(self._archive.crc(member))
      read_into(self._file, member.start + start, values)
    self._whole.add(member.key)
    strides = [s * dtype.itemsize for s in tensor.strides]
    # The extent was checked against the strides: no view leaves `values`.
    return np.lib.stride_tricks.as_strided(values, tensor.shape, strides)

  def _find_tensors(self):
    found = _Interpreter(self._archive).run(self._archive.pickle())
    flat = _state_dict(found)
    if not flat:
      raise Refused(f"holds {type(found).__name__} without a tensor, want a state dict")
    return flat


def is_torch_file(path):
  """Whether the name or the first bytes say so."""
  return str(path).endswith((".pth", ".pt", ".bin", ".ckpt"))


# -- the archive ----------------------------------------------------------------------


class _Member(NamedTuple):
  """One stored file of the archive: where its bytes are."""

  key: str
  start: int
  size: int
  crc: int

  def check(self, crc):
    if crc != self.crc:
      raise Refused(
        f"the bytes of {self.key} are damaged: CRC-32 {crc:08x}, want {self.crc:08x}"
      )


class _Bounded(io.RawIOBase):
  """A file that hands out at most MAX_DIRECTORY_BYTES at a time, for `zipfile`."""

  def __init__(self, file, size):
    self._file, self._size = file, size

  def seekable(self):
    return True

  def seek(self, offset, whence=os.SEEK_SET):
    return self._file.seek(offset, whence)

  def tell(self):
    return self._file.tell()

  def read(self, count=-1):
    left = self._size - self._file.tell()
    count = left if count is None or count < 0 else min(count, left)
    if count > MAX_DIRECTORY_BYTES:
      raise Refused(f"its directory has {count:,} bytes, which no checkpoint needs")
    return self._file.read(max(count, 0))


class _Archive:
  """The members of a zip file: uncompressed only, every size checked."""

  def __init__(self, file):
    self.file = file
    self.size = os.fstat(file.fileno()).st_size
    _check_start(file.read(8), self.size)
    infos = self._directory()
    self._infos = {}
    for info in infos:
      if info.filename in self._infos:
        raise Refused(f"two members are called {_short(info.filename)}")
      self._infos[info.filename] = info
    pickles = [n for n in self._infos if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickles) != 1:
      raise Refused(f"a zip file with {len(pickles)} data.pkl, want one of torch.save")
    self.root = pickles[0].removesuffix("data.pkl")
    if self.root.count("/") > 1:
      raise Refused(f"its data.pkl lies in {_short(self.root)}, want one folder")
    self._check_byte_order()

  def _directory(self):
    try:
      # zipfile believes nothing that it reads but knows zip64; whatever it makes of
      # damaged bytes is one answer here.
      with zipfile.ZipFile(_Bounded(self.file, self.size)) as archive:
        return archive.infolist()
    except (Refused, MemoryError):
      raise
    except Exception as error:
      raise Refused(
        f"truncated or damaged: no directory at the end of its {self.size:,} bytes"
        f" ({type(error).__name__})"
      ) from None

  def _check_byte_order(self):
    if self.root + "byteorder" not in self._infos:
      return
    order = self.bytes("byteorder", limit=16)
    if order != b"little":
      raise Refused(f"byte order {order!r}, want b'little'; save it again on such a host")

  def member(self, key):
    """_Member of `key` below the archive's folder."""
    info = self._infos.get(self.root + key)
    if info is None:
      raise Refused(f"has no member {_short(key)}, which its data.pkl asks for")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
      raise Refused(f"{_short(key)} is compressed or encrypted; torch stores plain bytes")
    self.file.seek(info.header_offset if 0 <= info.header_offset < self.size else 0)
    header = self.file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\3\4"):
      raise Refused(f"{_short(key)} does not begin at byte {info.header_offset:,}")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > self.size or info.compress_size != info.file_size:
      raise Refused(
        f"truncated or damaged: {_short(key)} ends at byte"
        f" {start + info.file_size:,}, the file has {self.size:,}"
      )
    return _Member(key, start, info.file_size, info.CRC)

  def bytes(self, key, *, limit):
    """All bytes of a small member."""
    member = self.member(key)
    if member.size > limit:
      raise Refused(f"{key} has {member.size:,} bytes, want at most {limit:,}")
    self.file.seek(member.start)
    data = self.file.read(member.size)
    member.check(zlib.crc32(data))
    return data

  def pickle(self):
    return self.bytes("data.pkl", limit=MAX_PICKLE_BYTES)

  def crc(self, member):
    """CRC-32 of a member, a chunk at a time."""
    self.file.seek(member.start)
    crc, left = 0, member.size
    while left:
      chunk = self.file.read(min(CHUNK, left))
      if not chunk:
        raise Refused(f"{member.key} ends {left:,} bytes early")
      crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return crc


def _check_start(start, size):
  if start.startswith(b"PK\3\4"):
    return
  if not size:
    raise Refused("is empty")
  if start[:1] == b"\x80" or start.startswith((b"ustar", b"PK")):
    raise Refused(
      "is a legacy .pth that is not a zip file (torch before 1.6); in a sandbox save it"
      " again with torch.save, or take a safetensors copy"
    )
  raise Refused(f"is not a zip file of torch: it begins with {start!r}")


# -- the pickle -----------------------------------------------------------------------


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
      raise Refused(f"tensor {name} {_short(numbers)}, want a tuple of whole numbers")
    if any(n < 0 for n in numbers):
      raise Refused(f"negative tensor {name} {_short(numbers)}")
  if len(shape) != len(strides) or len(shape) > MAX_DIMS:
    raise Refused(f"tensor shape {_short(shape)} with strides {_short(strides)}")
  if type(offset) is not int or offset < 0:
    raise Refused(f"tensor offset {_short(offset)}, want a whole number from 0")
  tensor = Strided(storage, offset, shape, strides)
  count = 1
  for n in shape:
    count *= n
  if offset + tensor.extent > storage.size or count > storage.size:
    raise Refused(
      f"a tensor of shape {_short(shape)}, strides {_short(strides)} and offset"
      f" {_short(offset)} leaves its storage of {storage.size:,} values"
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


# All that a state dict calls; each takes data and gives data.
CALLS = {
  "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
  "torch._utils _rebuild_parameter": _rebuild_parameter,
  "collections OrderedDict": _ordered_dict,
}


class _Interpreter:
  """A pickle's stack machine for the opcodes of a state dict."""

  def __init__(self, archive):
    self.archive = archive
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
    except Exception as error:  # a damaged pickle breaks this or that rule of the format
      raise Refused(f"its data.pkl is damaged: {_short(str(error))}") from None
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
    if name not in CALLS and _storage_dtype(name) is None:
      raise Refused(f"its data.pkl wants {_short(name.replace(' ', '.'))}: refused")
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
      raise Refused(f"its data.pkl calls {_short(function)}: refused")
    if not isinstance(args, tuple):
      raise Refused(f"its data.pkl calls {function.name} with {_short(args)}")
    self.push(CALLS[function.name](*args))

  def state(self, _):
    """BUILD: the attributes of a dict, i.e. its versions, are dropped."""
    self._pop()
    if not isinstance(self.stack[-1], dict):
      raise Refused(f"its data.pkl sets the state of {_short(self.stack[-1])}: refused")

  def storage(self, _):
    pid = self._pop()
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
      raise Refused(f"its data.pkl refers to {_short(pid)}, want a storage")
    _, kind, key, _, size = pid
    dtype = _storage_dtype(kind.name) if isinstance(kind, _Global) else None
    if dtype is None or not isinstance(key, str) or type(size) is not int or size < 0:
      raise Refused(f"its data.pkl refers to {_short(pid)}, want a storage")
    member = self.archive.member(f"data/{key}")
    if member.size != size * np.dtype(dtype).itemsize:
      raise Refused(
        f"storage {_short(key)} has {member.size:,} bytes, want"
        f" {size * np.dtype(dtype).itemsize:,} for {_short(size)} values"
      )
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
      raise Refused(f"its data.pkl has the key {_short(key)}, want text")
    target[key] = value

  def _container(self, kind):
    if type(self.stack[-1]) is not kind:
      raise Refused(f"its data.pkl fills {_short(self.stack[-1])} as a {kind.__name__}")
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
  "APPEND": _Interpreter.append,   "APPENDS": _Interpreter.extend,
  "SETITEM": _Interpreter.set_item, "SETITEMS": _Interpreter.set_items,
  "BINPUT": _Interpreter.put,      "LONG_BINPUT": _Interpreter.put,
  "BINGET": _Interpreter.get,      "LONG_BINGET": _Interpreter.get,
  "MEMOIZE": _Interpreter.memoize,
  "GLOBAL": _Interpreter.mention,  "STACK_GLOBAL": _Interpreter.mention_from_stack,
  "REDUCE": _Interpreter.call,     "BUILD": _Interpreter.state,
  "BINPERSID": _Interpreter.storage,
}
# fmt: on


def _storage_dtype(name):
  module, _, kind = name.partition(" ")
  return STORAGES.get(kind) if module == "torch" else None


def _state_dict(found):
  """{name: Strided} of a state dict, out of a trainer's wrapper if there is one."""
  for _ in range(3):
    if not isinstance(found, dict):
      return {}
    flat = {k: v for k, v in found.items() if isinstance(v, Strided)}
    inner = [k for k in WRAPPERS if isinstance(found.get(k), dict)]
    if flat or len(inner) != 1:
      break
    found = found[inner[0]]
  if any(not isinstance(k, str) for k in flat):
    raise Refused("a tensor's name is a number, want text")
  return flat


def _short(value, limit=60):
  """Text of anything that a hostile file holds, cut off before it grows."""
  if isinstance(value, int) and abs(value) >= 1 << 64:
    return "a huge number"
  if isinstance(value, tuple | list):
    inner = ", ".join(_short(v, 20) for v in value[:6])
    return f"({inner}{', ...' if len(value) > 6 else ''})"[:limit]
  if isinstance(value, dict):
    return f"a dict of {len(value)}"
  text = value if isinstance(value, str) else repr(value)
  return text[:limit].encode("ascii", "backslashreplace").decode()
