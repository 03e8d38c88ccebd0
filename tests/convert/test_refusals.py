"""`miras convert` of what does not fit: one line, and nothing is left."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miras_jax.convert import command
from miras_jax.errors import UserError
from tests.convert import checkpoints
from tests.convert.folders import (
  MLP_WIDTH,
  convert,
  listing,
  read_folder,
  union,
)


def assert_refused(tmp_path, message, *args):
  """One UserError and not a file of it left."""
  before = listing(tmp_path)
  with pytest.raises(UserError, match=message) as caught:
    convert(*args, f"--dst={tmp_path / 'dst'}")
  assert "\n" not in str(caught.value)
  assert listing(tmp_path) == before


def copy(published, tmp_path):
  return shutil.copytree(published, tmp_path / "copy")


def test_a_checkpoint_of_another_width_names_both_shapes(published, tmp_path):
  folder = copy(published, tmp_path)
  settings = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(settings | {"intermediate_size": 24}))
  message = rf"copy/model-0000.*'model\.layers\.\d\.mlp\..*{MLP_WIDTH}.*24"
  assert_refused(tmp_path, message,
                 f"--src={folder}")  # fmt: skip


def test_a_missing_key_is_named(published, tmp_path):
  folder = copy(published, tmp_path)
  state = read_folder(folder)
  for path in folder.glob("model*"):
    path.unlink()
  del state["model.layers.1.mlp.up_proj.weight"]
  save_file(state, folder / "model.safetensors")
  assert_refused(tmp_path, r"no source has our llm/layers/mlp/up_proj/kernel\[1\]",
                 f"--src={folder}")  # fmt: skip


def test_a_truncated_file_leaves_nothing(published, tmp_path):
  folder = copy(published, tmp_path)
  path = folder / "model-00002-of-00002.safetensors"
  path.write_bytes(path.read_bytes()[:-1000])
  assert_refused(tmp_path, "00002-of-00002.safetensors: truncated", f"--src={folder}")


def test_damage_that_shows_late_leaves_nothing(parts, flat, tmp_path):
  sam = tmp_path / "sam.pth"
  data = bytearray(parts[3].read_bytes())
  weight = flat["sam/decoder/mask_tokens"].tobytes()
  data[data.index(weight) + 5] ^= 1
  sam.write_bytes(data)
  assert_refused(tmp_path, r"sam.pth: mask_decoder.mask_tokens.weight: .*CRC-32",
                 union([*parts[:3], sam]),
                 "--new=projector,mining,seg_prompt")  # fmt: skip


def test_a_tokenizer_that_splits_seg_is_an_error(published, tmp_path):
  checkpoints.tokenizer(tmp_path / "plain", size=295)
  assert_refused(tmp_path, r"plain: the tokenizer splits '\[SEG\]' into the 5 ids",
                 f"--src={published}", f"--tokenizer={tmp_path / 'plain'}")  # fmt: skip


def test_a_tokenizer_of_another_model_is_an_error(parts, tmp_path):
  checkpoints.tokenizer(tmp_path / "big", size=500)
  assert_refused(tmp_path, "big: the tokenizer has 500 ids, the embedding 295 rows",
                 union(parts), f"--tokenizer={tmp_path / 'big'}",
                 "--new=projector,mining,seg_prompt")  # fmt: skip


def test_whole_numbers_are_no_weights(published, tmp_path):
  folder = copy(published, tmp_path)
  path = folder / "model-00001-of-00002.safetensors"
  state = load_file(path)
  key = next(iter(state))
  save_file(state | {key: np.zeros(state[key].shape, np.int8)}, path)
  assert_refused(tmp_path, f"{key}' has dtype int8, want floating", f"--src={folder}")


def test_a_destination_that_exists_is_kept(ours, published):
  with pytest.raises(UserError, match="ours exists already"):
    convert(f"--src={published}", f"--dst={ours}")


@pytest.mark.parametrize(
  "args, message",
  [
    ([], "--src=PATH"),
    (["--src=nowhere"], "--dst=DIR is missing"),
    (["--src=nowhere", "--dst=x"], "nowhere: no such file"),
    (["--src=a,b,c", "--dst=x", "--from=clip,sam"], "names 2 kinds for 3 sources"),
    (["--srk=nowhere"], "did you mean '--src'"),
    (["--dry-run", "--set=clip.wdith=4"], "no field 'clip.wdith'"),
  ],
)
def test_a_wrong_command_line_is_one_line(args, message):
  with pytest.raises(UserError, match=message):
    command.main(args)
