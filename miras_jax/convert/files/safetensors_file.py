"""Safetensors files, one tensor at a time, every number of the header checked.

The library maps files and answers damage with a dozen messages; a read here takes one
tensor, or one layer of it, and damage is one line that names the file.

  8 bytes    length of the header, little endian
  header     JSON: {name: {"dtype", "shape", "data_offsets": [begin, end]}}
  tensors    row-major, little endian, one behind the other
"""

import json
import math
import os
import pathlib

import ml_dtypes
import numpy as np

from miras_jax.convert.files.tensors import (
  Closing,
  TensorInfo,
  as_bool,
  is_name,
  read_into,
)
from miras_jax.errors import UserError

MAX_HEADER_BYTES = 100_000_000  # the limit of the format
MAX_DIMS = 16
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


class _Damaged(Exception):
  """What is wrong with a file; the caller adds its name."""


class SafetensorsFile(Closing):
  """Tensors of one file. `infos`: {name: TensorInfo}; `metadata`: {text: text}.

  Raises UserError naming the file when it is truncated or damaged.
  """

  def __init__(self, path):
    self.path = path
    self._file = None
    try:
      self._file = open(path, "rb")
      self.infos, self._offsets, self.metadata = _read_header(self._file)
    except OSError as error:
      self.close()
      raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _Damaged as error:
      self.close()
      raise UserError(f"{path}: {error}") from None

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
    names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
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


def _read_header(file):
  size = os.fstat(file.fileno()).st_size
  length = int.from_bytes(file.read(8), "little")
  if size < 10 or length > size - 8:
    raise _Damaged(
      f"truncated or not a safetensors file: its header would have {length:,} bytes,"
      f" the file has {size:,}"
    )
  if length > MAX_HEADER_BYTES:
    raise _Damaged(
      f"its header has {length:,} bytes, want at most {MAX_HEADER_BYTES:,}"
    )
  entries = _parse(file.read(length))
  metadata = entries.pop("__metadata__", None) or {}
  infos, spans = {}, []
  for name, entry in entries.items():
    infos[name], begin, end = _entry(name, entry)
    spans.append((begin, end, name))
  end = _check_cover(spans)
  if end != size - 8 - length:
    raise _Damaged(
      f"truncated or damaged: its tensors have {end:,} bytes, the file holds"
      f" {size - 8 - length:,} of them"
    )
  offsets = {name: begin + 8 + length for begin, _, name in spans}
  return infos, offsets, metadata


def _parse(data):
  try:
    entries = json.loads(data, object_pairs_hook=_no_duplicates)
  except (ValueError, RecursionError) as error:
    raise _Damaged(f"damaged: its header is not JSON ({error})") from None
  if not isinstance(entries, dict):
    raise _Damaged(f"damaged: its header is {type(entries).__name__}, want an object")
  return entries


def _no_duplicates(pairs):
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("a name occurs twice")
  return found


def _entry(name, entry):
  """(TensorInfo, begin, end) of one entry of the header."""
  if not is_name(name):
    raise _Damaged(f"damaged: a tensor is called {name[:60]!a}, want printable text")
  if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(
    entry
  ):
    raise _Damaged(f"damaged: no dtype, shape and data_offsets for {name}")
  if entry["dtype"] not in list(DTYPES):
    raise _Damaged(
      f"{name} has dtype {entry['dtype']!r:.40}, want one of {list(DTYPES)}"
    )
  shape, span = entry["shape"], entry["data_offsets"]
  if not _whole(shape) or len(shape) > MAX_DIMS:
    raise _Damaged(f"damaged: {name} has shape {shape!r:.60}")
  if not _whole(span) or len(span) != 2 or span[0] > span[1]:
    raise _Damaged(f"damaged: {name} has data_offsets {span!r:.60}")
  info = TensorInfo(tuple(shape), np.dtype(DTYPES[entry["dtype"]]))
  if span[1] - span[0] != info.nbytes:
    raise _Damaged(
      f"damaged: {name} is {info}, that is {info.nbytes:,} bytes, but has"
      f" {span[1] - span[0]:,}"
    )
  return info, *span


def _whole(numbers):
  return isinstance(numbers, list) and all(
    type(n) is int and 0 <= n < 1 << 48 for n in numbers
  )


def _check_cover(spans):
  """End of the last tensor; _Damaged when two overlap or bytes belong to none."""
  end = 0
  for begin, stop, name in sorted(spans):
    if begin != end:
      raise _Damaged(f"damaged: {name} begins at {begin:,}, want {end:,}")
    end = stop
  return end
