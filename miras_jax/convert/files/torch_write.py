"""Writes `.pth` files as `torch.save` does, opcode by opcode: torch is not needed."""

import struct
import zipfile

import ml_dtypes
import numpy as np

STORAGES = {
  np.dtype(np.float32): "FloatStorage",
  np.dtype(np.float64): "DoubleStorage",
  np.dtype(np.float16): "HalfStorage",
  np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
  np.dtype(np.int64): "LongStorage",
  np.dtype(np.int32): "IntStorage",
  np.dtype(np.int16): "ShortStorage",
  np.dtype(np.int8): "CharStorage",
  np.dtype(np.uint8): "ByteStorage",
  np.dtype(np.bool_): "BoolStorage",
}


def text(value):
  data = value.encode()
  return b"X" + struct.pack("<I", len(data)) + data


def number(value):
  if -(2**31) <= value < 2**31:
    return b"J" + struct.pack("<i", value)
  data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
  return b"\x8a" + bytes([len(data)]) + data


def name(module, attribute):
  return f"c{module}\n{attribute}\n".encode()


def tuple_of(*items):
  return b"(" + b"".join(items) + b"t"


def storage(kind, key, size):
  return (
    tuple_of(text("storage"), name("torch", kind), text(key), text("cpu"), size) + b"Q"
  )


def tensor(stored, offset, shape, strides):
  """Opcodes of `torch._utils._rebuild_tensor_v2(...)`; strides count values."""
  numbers = (tuple_of(*map(number, values)) for values in (shape, strides))
  hooks = name("collections", "OrderedDict") + b")R"
  args = tuple_of(stored, number(offset), *numbers, b"\x89", hooks)
  return name("torch._utils", "_rebuild_tensor_v2") + args + b"R"


def pickle_of(entries):
  """A dict {name: opcodes}."""
  items = b"".join(text(key) + value for key, value in entries.items())
  return b"\x80\x02}(" + items + b"u."


def write_archive(path, pickle, storages=(), *, compression=zipfile.ZIP_STORED):
  """The zip file around a pickle; `storages` are the members data/0, data/1, ..."""
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickle)
    for i, data in enumerate(storages):
      archive.writestr(f"archive/data/{i}", bytes(data))
    archive.writestr("archive/version", b"3\n")


def save(path, arrays, *, wrap=None):
  """A state dict of numpy arrays; `wrap` puts it under a trainer's key."""
  entries, storages = {}, []
  for key, array in arrays.items():
    kind = STORAGES[array.dtype]
    stored = storage(kind, str(len(storages)), number(array.size))
    strides = np.array([s // array.itemsize for s in _contiguous(array).strides], int)
    entries[key] = tensor(stored, 0, array.shape, strides.tolist())
    storages.append(_contiguous(array).tobytes())
  pickle = pickle_of(entries)
  if wrap:
    pickle = pickle_of({wrap: pickle[2:-1], "epoch": number(3)})
  write_archive(path, pickle, storages)


def _contiguous(array):
  return np.ascontiguousarray(array).reshape(array.shape)
