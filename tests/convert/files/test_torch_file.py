"""The `.pth` reader: every dtype and stride exactly, and nothing else than tensors."""

import os
import pickle
import resource
import zipfile

import ml_dtypes
import numpy as np
import pytest

from miras_jax.convert.files import torch_write
from miras_jax.convert.files.torch_file import TorchFile
from miras_jax.convert.files.torch_write import (
  name,
  number,
  pickle_of,
  storage,
  text,
  tuple_of,
)
from miras_jax.errors import UserError


def read_all(path):
  with TorchFile(path) as file:
    return {key: file.read(key) for key in file.infos}


def some_arrays():
  rng = np.random.default_rng(0)
  floats = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
  arrays = {np.dtype(t).name: rng.normal(size=(3, 4)).astype(t) for t in floats}
  for kind in (np.int64, np.int32, np.int16, np.int8, np.uint8):
    arrays[np.dtype(kind).name] = rng.integers(0, 100, (5, 2)).astype(kind)
  return arrays | {
    "bool": rng.random(7) > 0.5,
    "scalar": np.float32(2.5).reshape(()),
    "empty": np.zeros((0, 4), np.float32),
  }


@pytest.mark.parametrize("key", some_arrays())
def test_every_dtype_is_read_exactly(tmp_path, key):
  array = some_arrays()[key]
  torch_write.save(tmp_path / "a.pth", {key: array})
  found = read_all(tmp_path / "a.pth")[key]
  assert (found.dtype, found.shape) == (array.dtype, array.shape)
  assert found.tobytes() == array.tobytes()


def write_views(path, *views):
  """One storage of 0..23 and tensors (offset, shape, strides) in it."""
  stored = storage("FloatStorage", "0", number(24))
  entries = {str(i): torch_write.tensor(stored, *v) for i, v in enumerate(views)}
  data = np.arange(24, dtype=np.float32).tobytes()
  torch_write.write_archive(path, pickle_of(entries), [data])


def test_strided_views_of_one_storage(tmp_path):
  path = tmp_path / "a.pth"
  write_views(path, (0, (4, 6), (1, 4)), (5, (2, 3), (12, 2)), (23, (1,), (99,)))
  found, whole = read_all(path), np.arange(24, dtype=np.float32)
  np.testing.assert_array_equal(found["0"], whole.reshape(6, 4).T)
  np.testing.assert_array_equal(found["1"], [[5, 7, 9], [17, 19, 21]])
  np.testing.assert_array_equal(found["2"], [23])


@pytest.mark.parametrize("wrap", ["model", "state_dict", "module"])
def test_a_trainers_wrapper_is_opened(tmp_path, wrap):
  torch_write.save(tmp_path / "a.pth", {"w": np.ones(3, np.float32)}, wrap=wrap)
  np.testing.assert_array_equal(read_all(tmp_path / "a.pth")["w"], [1, 1, 1])


# -- tensors that leave their storage -------------------------------------------------

OUTSIDE = {
  "shape": (0, (5, 5), (5, 1)),
  "offset": (20, (5,), (1,)),
  "stride": (0, (2, 2), (23, 1)),
  "negative stride": (23, (24,), (-1,)),
  "negative offset": (-1, (2,), (1,)),
  "negative shape": (0, (-1,), (1,)),
  "huge shape": (0, (2**62, 2**62), (0, 0)),
  "huge stride": (0, (2, 2), (2**70, 1)),
  "huge offset": (2**70, (1,), (1,)),
  "huge empty": (0, (0, 2**62), (1, 1)),
  "expanded": (0, (10**9,), (0,)),
  "ranks differ": (0, (2, 2), (1,)),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, case):
  write_views(tmp_path / "a.pth", OUTSIDE[case])
  with pytest.raises(UserError, match="a.pth: .*(tensor|axis)"):
    read_all(tmp_path / "a.pth")


def test_a_storage_of_another_size_is_named_with_both_sizes(tmp_path):
  stored = storage("FloatStorage", "0", number(25))
  entry = torch_write.tensor(stored, 0, (25,), (1,))
  torch_write.write_archive(tmp_path / "a.pth", pickle_of({"w": entry}), [b"0" * 96])
  with pytest.raises(UserError, match="storage 0 has 96 bytes, want 100"):
    TorchFile(tmp_path / "a.pth")


@pytest.mark.parametrize("key", ["../../../etc/passwd", "/etc/passwd", "7", "0/../0"])
def test_a_storage_is_only_ever_a_member_of_the_archive(tmp_path, key):
  stored = storage("FloatStorage", key, number(1))
  entry = torch_write.tensor(stored, 0, (1,), (1,))
  torch_write.write_archive(tmp_path / "a.pth", pickle_of({"w": entry}), [b"0000"])
  with pytest.raises(UserError, match="has no member data/"):
    TorchFile(tmp_path / "a.pth")


# -- hostile pickles ------------------------------------------------------------------


class Call:
  """Pickles as the call of a function."""

  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


def touch(tmp_path):
  return f"touch {tmp_path / 'executed'}"


HOSTILE = {
  "os.system": lambda p: pickle.dumps(Call(os.system, touch(p)), 2),
  "eval": lambda p: pickle.dumps(Call(eval, f"open({str(p / 'executed')!r}, 'w')"), 2),
  "getattr chain": lambda p: pickle.dumps(Call(getattr, Call(getattr, "", "x"), "y")),
  "protocol 4": lambda p: pickle.dumps(Call(os.system, touch(p)), 4),
  "protocol 0": lambda p: pickle.dumps(Call(os.system, touch(p)), 0),
  "INST": lambda p: b"(" + b"S'x'\n" + b"ios\nsystem\n.",
  "OBJ": lambda p: b"(" + name("os", "system") + text(touch(p)) + b"o.",
  "NEWOBJ": lambda p: b"\x80\x02" + name("collections", "OrderedDict") + b")\x81.",
  "EXT1": lambda p: b"\x80\x02\x82\x01.",
  "text persistent id": lambda p: b"Pstorage\n.",
  "dunder": lambda p: b"\x80\x02" + name("torch._utils", "__builtins__") + b".",
  "dotted": lambda p: b"\x80\x04" + text("torch._utils") + text("os.system") + b"\x93.",
  "call a made value": lambda p: b"\x80\x02" + text("x") + b")R.",
  "call a storage": lambda p: b"\x80\x02" + name("torch", "FloatStorage") + b")R.",
  "BUILD a name": lambda p: b"\x80\x02" + name("collections", "OrderedDict") + b"}b.",
  "torch.load": lambda p: b"\x80\x02" + name("torch", "load") + text("x") + b"\x85R.",
  "OrderedDict of args": lambda p: (
    b"\x80\x02" + name("collections", "OrderedDict") + b"]\x85R."
  ),
  "rebuild of text": lambda p: (
    b"\x80\x02" + name("torch._utils", "_rebuild_tensor_v2")
    + tuple_of(text("x"), number(0), b")", b")") + b"R."
  ),
  "rebuild of nothing": lambda p: (
    b"\x80\x02" + name("torch._utils", "_rebuild_tensor_v2") + b")R."
  ),
  "parameter of text": lambda p: (
    b"\x80\x02" + name("torch._utils", "_rebuild_parameter") + text("x") + b"\x85R."
  ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path, case):
  torch_write.write_archive(tmp_path / "a.pth", HOSTILE[case](tmp_path))
  with pytest.raises(UserError, match=r"a\.pth: (its data\.pkl|an?) "):
    TorchFile(tmp_path / "a.pth")
  assert not (tmp_path / "executed").exists()


def test_the_refusal_names_what_was_wanted(tmp_path):
  torch_write.write_archive(tmp_path / "a.pth", HOSTILE["os.system"](tmp_path))
  with pytest.raises(UserError, match=r"posix\.system: refused"):
    TorchFile(tmp_path / "a.pth")


def test_a_whole_module_is_refused_by_name(tmp_path):
  data = b"\x80\x02" + name("torch.nn.modules.linear", "Linear") + b")R."
  torch_write.write_archive(tmp_path / "a.pth", data)
  with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear: refused"):
    TorchFile(tmp_path / "a.pth")


def test_a_message_about_nested_tuples_ends(tmp_path):
  nested = number(1)
  for _ in range(60):  # each one holds the last one six times
    nested += b"q\x00" + b"h\x00" * 5 + b"(" + b"h\x00" * 6 + b"t"
  data = b"\x80\x02" + name("torch._utils", "_rebuild_parameter") + nested + b"\x85R."
  torch_write.write_archive(tmp_path / "a.pth", data)
  with pytest.raises(UserError, match="data.pkl"):
    TorchFile(tmp_path / "a.pth")


def test_a_recursive_dict_is_no_endless_loop(tmp_path):
  data = b"\x80\x02}q\x00" + text("model") + b"h\x00s."
  torch_write.write_archive(tmp_path / "a.pth", data)
  with pytest.raises(UserError, match="without a tensor"):
    TorchFile(tmp_path / "a.pth")


# -- damaged and foreign files --------------------------------------------------------


def test_a_zip_bomb_is_refused(tmp_path):
  zeros = np.zeros(1 << 24, np.float32)
  stored = storage("FloatStorage", "0", number(zeros.size))
  entry = torch_write.tensor(stored, 0, zeros.shape, (1,))
  torch_write.write_archive(
    tmp_path / "a.pth", pickle_of({"w": entry}), [zeros.tobytes()],
    compression=zipfile.ZIP_DEFLATED,
  )  # fmt: skip
  assert (tmp_path / "a.pth").stat().st_size < 1 << 20
  with pytest.raises(UserError, match="compressed or encrypted"):
    TorchFile(tmp_path / "a.pth")


def test_a_legacy_file_is_refused_by_name(tmp_path):
  (tmp_path / "a.pth").write_bytes(pickle.dumps({"w": 1}, 2))
  with pytest.raises(UserError, match="a.pth: is a legacy .pth .* save it again"):
    TorchFile(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>not found</html>"])
def test_something_else_is_named(tmp_path, content):
  (tmp_path / "a.pth").write_bytes(content)
  with pytest.raises(UserError, match="a.pth: is "):
    TorchFile(tmp_path / "a.pth")


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(UserError, match="a.pth: cannot be read: No such file"):
    TorchFile(tmp_path / "a.pth")


def test_a_truncated_file_is_named(tmp_path):
  path = tmp_path / "a.pth"
  torch_write.save(path, some_arrays())
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(UserError, match="a.pth: truncated or damaged"):
    TorchFile(path)


def test_a_flipped_bit_of_a_weight_is_found(tmp_path):
  path = tmp_path / "a.pth"
  weight = np.arange(1000, dtype=np.float32)
  torch_write.save(path, {"w": weight})
  data = bytearray(path.read_bytes())
  data[data.index(weight.tobytes()) + 1234] ^= 4
  path.write_bytes(data)
  with TorchFile(path) as file, pytest.raises(UserError, match="w: .*CRC-32"):
    file.read("w")


def test_a_flipped_bit_beside_a_view_is_found(tmp_path):
  path = tmp_path / "a.pth"
  write_views(path, (0, (3,), (1,)))
  data = bytearray(path.read_bytes())
  data[data.index(np.arange(24, dtype=np.float32).tobytes()) + 95] ^= 4
  path.write_bytes(data)
  with TorchFile(path) as file, pytest.raises(UserError, match="CRC-32"):
    file.read("0")


def mutations(count, originals, seed):
  """`count` files with bytes flipped, cut out, doubled or put in."""
  rng = np.random.default_rng(seed)
  for _ in range(count):
    data = bytearray(originals[rng.integers(len(originals))])
    for _ in range(rng.integers(1, 6)):
      at, kind = int(rng.integers(len(data))), rng.integers(5)
      end = at + int(rng.integers(1, 40))
      if kind < 2:
        data[at] = rng.integers(256)
      elif kind == 2:
        del data[at:end]
      elif kind == 3:
        data[at:at] = data[at:end]
      else:
        data[at:at] = rng.bytes(int(rng.integers(1, 9)))
      if not data:
        break
    yield bytes(data)


def originals(tmp_path):
  """Small good files and hostile ones, as bytes; and their bare pickles."""
  torch_write.save(tmp_path / "o0", some_arrays())
  torch_write.save(tmp_path / "o1", {"w": np.ones((2, 3), np.float16)}, wrap="model")
  write_views(tmp_path / "o2", (0, (4, 6), (1, 4)), (5, (2, 3), (12, 2)))
  torch_write.write_archive(tmp_path / "o3", HOSTILE["os.system"](tmp_path))
  torch_write.write_archive(tmp_path / "o4", HOSTILE["protocol 4"](tmp_path))
  return [(tmp_path / f"o{i}").read_bytes() for i in range(5)]


def bare_pickles(files, tmp_path):
  """Pickles that get a good archive around them after they are mutated."""
  for data in files:
    (tmp_path / "bare").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "bare") as archive:
      yield archive.read("archive/data.pkl")


def outcome(path):
  """ "read", or "refused" by the one error; anything else fails the test."""
  try:
    with TorchFile(path) as file:
      for key, info in file.infos.items():
        assert len(file.read(key).tobytes()) == info.nbytes <= 1 << 20
    return "read"
  except UserError as error:
    assert str(path) in str(error) and "\n" not in str(error)
    return "refused"


def test_a_thousand_mutated_files_are_read_or_refused(tmp_path):
  files, path = originals(tmp_path), tmp_path / "fuzz.pth"
  seen, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for data in mutations(500, files, seed=0):  # of the archive: its checksums catch most
    path.write_bytes(data)
    seen.append(outcome(path))
  storages = [a.tobytes() for a in some_arrays().values()]
  for data in mutations(500, list(bare_pickles(files, tmp_path)), seed=1):
    torch_write.write_archive(path, data, storages)
    seen.append(outcome(path))
  assert len(seen) == 1000 and {"read", "refused"} == set(seen)
  assert not (tmp_path / "executed").exists()
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert grown < 1_000_000  # KiB


def test_a_pickle_of_a_million_objects_stays_small(tmp_path):
  torch_write.write_archive(tmp_path / "a.pth", b"\x80\x02" + b"}" * (4 << 20))
  with pytest.raises(UserError, match="at most"):
    TorchFile(tmp_path / "a.pth")
