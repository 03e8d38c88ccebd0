"""The safetensors reader: as the library reads, and one clear line for damage."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miras_jax.convert.files.safetensors_file import (
  SafetensorsFile,
  header_bytes,
  read_index,
)
from miras_jax.convert.files.tensors import TensorInfo
from miras_jax.errors import UserError

KINDS = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int16, np.int8,
         np.uint8, np.bool_)  # fmt: skip


@pytest.fixture
def path(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {np.dtype(k).name: rng.integers(0, 2, (3, 4)).astype(k) for k in KINDS}
  save_file(arrays | {"scalar": np.array(3, np.float32), "empty": np.zeros((0, 2))},
            tmp_path / "a.safetensors", metadata={"format": "pt"})  # fmt: skip
  return tmp_path / "a.safetensors"


def write(path, header, data=b""):
  """A file with any header, as text or as something JSON can say."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(len(text).to_bytes(8, "little") + text + data)
  return path


def test_reads_what_the_library_reads(path):
  with SafetensorsFile(path) as file:
    expected = load_file(path)
    assert file.infos.keys() == expected.keys()
    for key, array in expected.items():
      found = file.read(key)
      assert (found.dtype, found.shape) == (array.dtype, array.shape)
      np.testing.assert_array_equal(found, array)


def test_one_layer_is_read_alone(tmp_path):
  stack = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
  save_file({"a": np.zeros(5, np.float32), "stack": stack}, tmp_path / "s.safetensors")
  with SafetensorsFile(tmp_path / "s.safetensors") as file:
    np.testing.assert_array_equal(file.read("stack", layer=2), stack[2])


def test_the_library_reads_our_header(tmp_path):
  infos = {"b": TensorInfo((2, 2), np.dtype(ml_dtypes.bfloat16)),
           "a": TensorInfo((3,), np.dtype(np.float32))}  # fmt: skip
  head, offsets, size = header_bytes(infos, {"format": "pt"})
  data = np.ones(4, ml_dtypes.bfloat16).tobytes() + np.arange(3, dtype="f4").tobytes()
  (tmp_path / "a.safetensors").write_bytes(head + data)
  assert size == len(head + data) and offsets["b"] % 8 == 0
  found = load_file(tmp_path / "a.safetensors")
  np.testing.assert_array_equal(found["a"], [0, 1, 2])
  np.testing.assert_array_equal(found["b"].astype(np.float32), np.ones((2, 2)))


@pytest.mark.parametrize("cut", [1, 8, 100, 10_000])
def test_a_truncated_file_is_named(path, cut):
  data = path.read_bytes()
  path.write_bytes(data[: max(0, len(data) - cut)])
  with pytest.raises(UserError, match="a.safetensors: truncated"):
    SafetensorsFile(path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# The last one counts, so bytes of the first belong to none.
TWICE = json.dumps(
  {"w": entry(shape=[1], offsets=(0, 4)), "v": entry(shape=[1], offsets=(4, 8))}
).replace('"v"', '"w"')
DAMAGED = {
  "shape and bytes differ": ({"w": entry(shape=[3])}, "invalid shape, data type"),
  "negative shape": ({"w": entry(shape=[-2])}, "integer `-2`"),
  "text in a shape": ({"w": entry(shape=["2"])}, 'string "2"'),
  "bool in a shape": ({"w": entry(shape=[True])}, "boolean `true`"),
  "huge shape": ({"w": entry(shape=[2**40, 2**40])}, "overflow"),
  "end before begin": ({"w": entry(offsets=(8, 0))}, "invalid offset .* `w`"),
  "past the end": ({"w": entry(shape=[4], offsets=(0, 16))}, "not fully covered"),
  "bytes of no tensor": ({"w": entry(shape=[1], offsets=(0, 4))}, "not fully covered"),
  "a gap": ({"w": entry(shape=[1], offsets=(4, 8))}, "invalid offset .* `w`"),
  "an overlap": ({"v": entry(), "w": entry()}, "invalid offset .* `[vw]`"),
  "unknown dtype": ({"w": entry(dtype="F8")}, "unknown variant `F8`"),
  "a dtype of no array": ({"w": entry(dtype="F8_E4M3", shape=[8])}, "want one of"),
  "dtype of no text": ({"w": entry(dtype=[1])}, "invalid type: sequence"),
  "no offsets": ({"w": {"dtype": "F32", "shape": [2]}}, "missing field `data_offsets`"),
  "no object": ([1, 2], "invalid type: sequence"),
  "an entry of text": ({"w": "x"}, 'string "x"'),
  "numbers as metadata": ({"__metadata__": {"a": 1}, "w": entry()}, "integer `1`"),
  "too many axes": ({"w": entry(shape=[2] + [1] * 99)}, "100 axes, want at most 16"),
  "a name twice": (TWICE.encode(), "invalid offset .* `w`"),
  "no JSON": (b"{", "invalid JSON"),
  "nested deeply": (b"[" * 100_000, "invalid JSON"),
  "a name with a line break": ({"w\nv": entry()}, "want printable text"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_header_is_one_line(tmp_path, case):
  header, message = DAMAGED[case]
  path = write(tmp_path / "a.safetensors", header, b"\0" * 8)
  with pytest.raises(UserError, match=f"a.safetensors: .*{message}") as caught:
    SafetensorsFile(path)
  assert "\n" not in str(caught.value)


def test_a_huge_header_is_not_allocated(tmp_path):
  (tmp_path / "a.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
  with pytest.raises(UserError, match="a.safetensors: .*header too large"):
    SafetensorsFile(tmp_path / "a.safetensors")


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(path):
  with SafetensorsFile(path) as file:
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="too early"):
      for key in file.infos:
        file.read(key)


def test_mutated_files_are_read_or_refused(path):
  rng, original = np.random.default_rng(0), path.read_bytes()
  seen = set()
  for _ in range(300):
    data = bytearray(original)
    for at in rng.integers(0, len(data), 3):
      data[at] = rng.integers(256)
    path.write_bytes(data)
    try:
      with SafetensorsFile(path) as file:
        seen |= {len(file.read(k).tobytes()) == i.nbytes for k, i in file.infos.items()}
    except UserError as error:
      seen.add(str(path) in str(error))
  assert seen == {True}


@pytest.mark.parametrize(
  "file", ["../a.safetensors", "/etc/passwd", "x/y", "", 3, ".."]
)
def test_an_index_points_into_its_own_folder_only(tmp_path, file):
  index = tmp_path / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"w": file}}))
  with pytest.raises(UserError, match="index.json: .*want a file of this folder"):
    read_index(index)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_is_named(tmp_path, text):
  (tmp_path / "model.safetensors.index.json").write_text(text)
  with pytest.raises(UserError, match="index.json: is not an index"):
    read_index(tmp_path / "model.safetensors.index.json")
