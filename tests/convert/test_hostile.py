"""Weight files and settings of strangers: each ends soon, in one line."""

import json
import os
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from miras_jax.convert import command, hf
from miras_jax.convert.files import torch_write
from miras_jax.convert.files.safetensors_file import SafetensorsFile
from miras_jax.convert.files.torch_file import TorchFile
from miras_jax.convert.files.torch_write import name, number, text, tuple_of
from miras_jax.convert.sources import Source
from miras_jax.errors import UserError
from tests.convert import checkpoints

pytestmark = pytest.mark.usefixtures("ends_soon")


@pytest.fixture(scope="module")
def clip():
  return checkpoints.state_dict("clip", checkpoints.params())


# -- what is no regular file ----------------------------------------------------------


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "sam.pth"])
def test_a_fifo_in_place_of_weights_is_refused(tmp_path, file):
  os.mkfifo(tmp_path / file)
  for path in (tmp_path, tmp_path / file):
    with pytest.raises(UserError, match=f"{file}: is a FIFO, want a regular file"):
      Source(path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_link_to_an_endless_device_is_refused(tmp_path, file):
  (tmp_path / file).symlink_to("/dev/zero")
  with pytest.raises(UserError, match=f"{file}: is a device"):
    Source(tmp_path)


@pytest.mark.parametrize(
  "file", ["config.json", "adapter_config.json", "model.safetensors.index.json"]
)
def test_settings_without_an_end_are_refused(tmp_path, clip, file):
  checkpoints.write(tmp_path / "clip", clip, settings={})
  (tmp_path / "clip" / file).symlink_to("/dev/zero")
  with pytest.raises(UserError, match=f"{file}: is .*a device"):
    Source(tmp_path / "clip")


def test_settings_that_a_link_promises_are_missed(tmp_path, clip):
  checkpoints.write(tmp_path / "clip", clip, settings={})
  (tmp_path / "clip" / "config.json").symlink_to("../blobs/4f2a")
  with pytest.raises(UserError, match="config.json: cannot be read .*No such file"):
    Source(tmp_path / "clip")


def test_a_header_larger_than_any_model_is_not_read(tmp_path):
  head = (1 << 25).to_bytes(8, "little") + b"{" + b" " * (1 << 25)
  (tmp_path / "a.safetensors").write_bytes(head)
  with pytest.raises(UserError, match="header too large: 33,554,432 bytes"):
    SafetensorsFile(tmp_path / "a.safetensors")


def test_a_hundred_thousand_tensors_are_refused(tmp_path):
  state = {f"model.layers.{i}.mlp.up_proj.weight": np.zeros(0) for i in range(20_001)}
  save_file(state, tmp_path / "model.safetensors")
  with pytest.raises(UserError, match="holds 20,001 tensors"):
    Source(tmp_path)


# -- files that are something else ----------------------------------------------------

NOTE = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"


@pytest.mark.parametrize(
  "file", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"]
)
def test_a_pointer_of_git_lfs_is_called_so(tmp_path, file):
  (tmp_path / file).write_text(NOTE)
  with pytest.raises(UserError, match=f"{file}: is a pointer of Git LFS.*git lfs pull"):
    Source(tmp_path)


@pytest.mark.parametrize("member", ["data.pkl", "code"])
def test_torchscript_is_called_so(tmp_path, member):
  path, data = tmp_path / "ViT-B-32.pt", b"\x80\x02}."
  if member == "data.pkl":
    data = b"\x80\x02" + name("__torch__.model", "Tower") + b")\x81."
  torch_write.write_archive(path, data)
  if member == "code":
    with zipfile.ZipFile(path, "a") as archive:
      archive.writestr("archive/code/__torch__/model.py", "pass")
  with pytest.raises(UserError, match=r"is TorchScript.*state_dict"):
    TorchFile(path)


def deepspeed(path, arrays, *, beside):
  """`mp_rank_00_model_states.pt`: weights under `module`, more beside them."""
  torch_write.save(path, arrays, wrap="module")
  with zipfile.ZipFile(path) as archive:
    pickle = archive.read("archive/data.pkl")
    count = sum(n.startswith("archive/data/") for n in archive.namelist())
    storages = [archive.read(f"archive/data/{i}") for i in range(count)]
  torch_write.write_archive(path, pickle[:-2] + beside + b"u.", storages)


def test_deepspeed_s_states_are_read_with_shapes_and_sets_beside_them(tmp_path):
  path = tmp_path / "mp_rank_00_model_states.pt"
  size = name("torch", "Size") + tuple_of(tuple_of(number(2))) + b"R"
  names = name("__builtin__", "set") + b"](" + text("w") + b"e\x85R"
  beside = text("param_shapes") + b"](}(" + text("w") + size + b"ue"
  beside += text("sparse_tensor_module_names") + names
  deepspeed(path, {"w": np.ones(2, "f4")}, beside=beside)
  with TorchFile(path) as file:
    np.testing.assert_array_equal(file.read("w"), np.ones(2, "f4"))


def test_a_part_of_deepspeed_that_is_no_state_dict_names_its_script(tmp_path):
  path = tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
  torch_write.write_archive(path, b"\x80\x02" + name("deepspeed.x", "Y") + b".")
  with pytest.raises(UserError, match="deepspeed.x.Y: refused; .*zero_to_fp32.py"):
    TorchFile(path)


def test_weights_that_stage_three_left_elsewhere_name_the_script(tmp_path):
  path = tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt"
  torch_write.save(path, {"w": np.zeros(0, "f4")}, wrap="module")
  with pytest.raises(UserError, match="without a value.*zero_to_fp32.py"):
    TorchFile(path)


# -- absurd sizes ---------------------------------------------------------------------


@pytest.mark.parametrize(
  "field", ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size"]
)
def test_a_size_that_no_model_has_is_refused_at_once(tmp_path, field):
  state = checkpoints.state_dict("llama", checkpoints.params())
  settings = json.loads(hf.settings_of(checkpoints.CFG.llama, dtype="float32"))
  checkpoints.write(tmp_path / "a", state, settings=settings | {field: 10**9})
  with pytest.raises(UserError, match=f"config.json: {field} is 1,000,000,000, want"):
    command.main([f"--src={tmp_path / 'a'}", f"--dst={tmp_path / 'o'}"])


@pytest.mark.parametrize("field", ["llama.depth", "clip.depth", "sam_encoder.width"])
def test_an_override_that_no_model_has_is_refused_at_once(field):
  with pytest.raises(UserError, match=f"--set: .*{field.split('.')[1]}.*1000000000"):
    command.main(["--dry-run", f"--set={field}=1000000000"])
