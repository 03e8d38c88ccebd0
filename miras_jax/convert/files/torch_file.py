"""Reads zip `.pth` and `.bin` files of torch without torch, one tensor at a time.

The archive's directory and the pickle in it (`torch_pickle`) are hostile until shown
otherwise: members are stored bytes within the file, tensors stay within their storage.

Files are read, never mapped: a file that shrinks while it is mapped kills the process.
"""

import io
import os
import re
import struct
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from input_pipeline.regular_file import open_regular
from miras_jax.convert.files.tensors import Closing, TensorInfo, as_bool, read_into
from miras_jax.convert.files.torch_pickle import (
  TORCHSCRIPT,
  Interpreter,
  Refused,
  short,
  state_dict,
)
from miras_jax.errors import UserError

# Far above any real checkpoint: 2,000 tensors take about 0.3 MB of pickle.
MAX_PICKLE_BYTES = 4 << 20
MAX_DIRECTORY_BYTES = 64 << 20
CHUNK = 1 << 20


class TorchFile(Closing):
  """Tensors of a zip file of torch. `infos`: {name: TensorInfo}; `read(name)`.

  Raises UserError naming the file for anything that is not a plain state dict.
  """

  def __init__(self, path):
    self.path = path
    self._file = None
    try:
      self._file = open_regular(path)
      self._archive = _Archive(self._file)
      self._tensors = self._find_tensors()
    except Refused as error:
      self.close()
      raise UserError(f"{path}: {error}{_remedy(path)}") from None
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
    values = np.empty(tensor.extent, dtype)
    if length == member.size:
      read_into(self._file, member.start, values)
      if member.key not in self._whole:
        member.check(zlib.crc32(values.view(np.uint8)))
    else:  # a part of a storage: its sum needs a pass of its own, once
      if member.key not in self._whole:
        member.check(self._archive.crc(member))
      read_into(self._file, member.start + start, values)
    self._whole.add(member.key)
    if not tensor.extent:
      return np.empty(tensor.shape, dtype)
    # The extent was checked against the strides: no view leaves `values`. The stride of
    # an axis of one value means nothing and may be anything.
    axes = zip(tensor.shape, tensor.strides, strict=True)
    strides = [s * dtype.itemsize if n > 1 else 0 for n, s in axes]
    return np.lib.stride_tricks.as_strided(as_bool(values), tensor.shape, strides)

  def _find_tensors(self):
    found = Interpreter(self._archive.storage_bytes).run(self._archive.pickle())
    flat = state_dict(found)
    if not flat:
      raise Refused(f"holds {type(found).__name__} without a tensor, want a state dict")
    if _remedy(self.path) and all(0 in t.shape for t in flat.values()):
      raise Refused("holds names without a value (ZeRO stage 3)")
    return flat


def _remedy(path):
  """What to do about a file of DeepSpeed that is no state dict."""
  if not re.search(r"(model|optim)_states\.pt$", str(path)):
    return ""
  return (
    "; it is a part of a DeepSpeed checkpoint: run the zero_to_fp32.py of its folder"
    " and convert what that writes"
  )


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
        raise Refused(f"two members are called {short(info.filename)}")
      self._infos[info.filename] = info
    pickles = [n for n in self._infos if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickles) != 1:
      raise Refused(f"a zip file with {len(pickles)} data.pkl, want one of torch.save")
    self.root = pickles[0].removesuffix("data.pkl")
    if self.root.count("/") > 1:
      raise Refused(f"its data.pkl lies in {short(self.root)}, want one folder")
    if any(n.startswith(f"{self.root}code/__torch__") for n in self._infos):
      raise Refused(TORCHSCRIPT)
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
      raise Refused(
        f"byte order {order!r}, want b'little'; save it again on such a host"
      )

  def member(self, key):
    """_Member of `key` below the archive's folder."""
    info = self._infos.get(self.root + key)
    if info is None:
      raise Refused(f"has no member {short(key)}, which its data.pkl asks for")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
      raise Refused(
        f"{short(key)} is compressed or encrypted; torch stores plain bytes"
      )
    self.file.seek(info.header_offset if 0 <= info.header_offset < self.size else 0)
    header = self.file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\3\4"):
      raise Refused(f"{short(key)} does not begin at byte {info.header_offset:,}")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > self.size or info.compress_size != info.file_size:
      raise Refused(
        f"truncated or damaged: {short(key)} ends at byte"
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

  def storage_bytes(self, key):
    """Size of a storage that is whole."""
    return self.member(f"data/{key}").size

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
  if start[:1] == b"\x80":
    raise Refused(
      "is a legacy .pth that is not a zip file (torch before 1.6); in a sandbox save it"
      " again with torch.save, or take a safetensors copy"
    )
  raise Refused(f"is not a zip file of torch: it begins with {start!r}")
