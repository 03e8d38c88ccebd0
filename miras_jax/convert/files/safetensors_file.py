"""Safetensors files, one tensor at a time.

The library parses and checks the header. The numbers are read here, one tensor or one
layer of it: the library maps files, so one that shrinks (a disk that others write to)
would end the process with SIGBUS, and every page that was read would count as ours.

  8 bytes    length of the header, little endian
  header     JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}}
  tensors    row-major, little endian, one behind the other
"""

import json
import math
import pathlib

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from input_pipeline.regular_file import SMALL_JSON, open_regular, read_bytes
from miras_jax.convert.files.tensors import (
  Closing,
  TensorInfo,
  as_bool,
  is_name,
  read_into,
)
from miras_jax.errors import UserError

MAX_DIMS = 16
MAX_HEADER_BYTES = 16 << 20  # of 2,000 tensors: 0.3 MB
DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class SafetensorsFile(Closing):
  """Tensors of one file. `infos`: {name: TensorInfo}.

  Raises UserError naming the file when it is truncated or damaged.
  """

  def __init__(self, path):
    self.path = path
    self._file = None
    try:
      self._file = open_regular(path)
      self.infos, self._offsets = _read_header(path, self._file)
    except OSError as error:
      self.close()
      raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except SafetensorError as error:
      self.close()
      raise UserError(f"{path}: truncated or damaged: {error}") from None
    except UserError:
      self.close()
      raise

  def read(self, name, *, layer=None):
    """The tensor as an array of its own, or entry `layer` of its first axis."""
    info, start = self.infos[name], self._offsets[name]
    shape = info.shape
    if layer is not None:
      if not shape or not 0 <= layer < shape[0]:
        raise ValueError(f"{self.path}: {name} is {info}, it has no entry {layer}")
      shape = shape[1:]
      start += layer * math.prod(shape) * np.dtype(info.dtype).itemsize
    array = np.empty(shape, info.dtype)
    try:
      read_into(self._file, start, array)
    except OSError as error:
      raise UserError(f"{self.path}: {name}: {error}") from None
    return as_bool(array)


def header_bytes(infos, metadata=None):
  """The header of a file that holds `infos`, {name: TensorInfo}, in that order.

  Returns (bytes with the length in front, {name: byte offset in the file}, file size).
  """
  entries = {"__metadata__": dict(metadata)} if metadata else {}
  offsets, end = {}, 0
  for name, info in infos.items():
    offsets[name] = end
    end += info.nbytes
    entries[name] = {
      "dtype": NAMES[np.dtype(info.dtype)],
      "shape": list(info.shape),
      "data_offsets": [offsets[name], end],
    }
  text = json.dumps(entries, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
  head = len(text).to_bytes(8, "little") + text
  return head, {k: v + len(head) for k, v in offsets.items()}, end + len(head)


def read_index(path):
  """Files of a `*.index.json`: {tensor name: path}; all lie in the index's folder.

  Raises UserError for an index that is damaged or points elsewhere.
  """
  path = pathlib.Path(path)
  try:
    names = json.loads(read_bytes(path, SMALL_JSON))["weight_map"]
    pairs = sorted(names.items())
  except (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
  ) as e:
    raise UserError(f"{path}: is not an index of weights: {e!r}") from None
  for name, file in pairs:
    plain = is_name(file) and file != ".." and pathlib.PurePath(file).name == file
    if not is_name(name) or not plain:
      raise UserError(f"{path}: {name!r} is in {file!r}, want a file of this folder")
  return {name: path.parent / file for name, file in pairs}


def _read_header(path, file):
  """({name: TensorInfo}, {name: byte offset}) of an open file.

  The library has checked that the tensors lie one behind the other and fill the file.
  """
  length = int.from_bytes(file.read(8), "little")
  if length > MAX_HEADER_BYTES:
    raise UserError(
      f"{path}: truncated or damaged: header too large: {length:,} bytes, want at most"
      f" {MAX_HEADER_BYTES:,}"
    )
  with safe_open(path, framework="numpy") as header:
    infos = {
      name: _info(path, name, header.get_slice(name)) for name in header.offset_keys()
    }
  offsets, end = {}, 8 + length
  for name, info in infos.items():
    offsets[name] = end
    end += info.nbytes
  return infos, offsets


def _info(path, name, tensor):
  """TensorInfo of a tensor of the library. UserError for what we cannot hold."""
  if not is_name(name):
    raise UserError(
      f"{path}: damaged: a tensor is called {name[:60]!a}, want printable text"
    )
  dtype, shape = tensor.get_dtype(), tensor.get_shape()
  if dtype not in DTYPES:
    raise UserError(f"{path}: {name} has dtype {dtype}, want one of {list(DTYPES)}")
  if len(shape) > MAX_DIMS:
    raise UserError(f"{path}: {name} has {len(shape)} axes, want at most {MAX_DIMS}")
  return TensorInfo(tuple(shape), np.dtype(DTYPES[dtype]))
