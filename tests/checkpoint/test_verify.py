"""`miras checkpoint verify` names what is broken, file and leaf, and ends with 1."""

import re
import shutil

import pytest

from configs import common
from input_pipeline.tokenizer import train_bpe
from miras_jax.checkpoint import command as checkpoint_command
from miras_jax.checkpoint.store import Checkpoints
from miras_jax.config.run import RunConfig
from tests.checkpoint.test_store import make_state, save


@pytest.fixture
def trained(tmp_path):
  """A folder of two steps with its config."""
  save(tmp_path, 1, 2)
  config = RunConfig.from_config_dict(common.base_config())
  (tmp_path / "config.json").write_text(config.to_json())
  return tmp_path


def test_verify_names_a_broken_config_and_fails(trained, capsys):
  (trained / "config.json").write_text("{")
  assert checkpoint_command.main(["verify", str(trained)]) == 1
  shown = capsys.readouterr().out
  assert re.search(r"config +DAMAGED: .*config.json: .*; put a copy back", shown)


def test_verify_names_a_tokenizer_that_no_step_was_trained_with(tmp_path, capsys):
  tokenizer = train_bpe(["where is it?"], 300)
  with Checkpoints(tmp_path, keep=2, tokenizer=tokenizer.fingerprint()) as checkpoints:
    checkpoints.save_frozen(make_state().frozen)
    checkpoints.save(1, make_state(), data_state={}, metrics={})
  config = RunConfig.from_config_dict(common.base_config())
  (tmp_path / "config.json").write_text(config.to_json())
  tokenizer.save(tmp_path / "tokenizer")
  assert checkpoint_command.main(["verify", str(tmp_path)]) == 0
  shutil.rmtree(tmp_path / "tokenizer")
  train_bpe(["and that one?"], 300).save(tmp_path / "tokenizer")
  assert checkpoint_command.main(["verify", str(tmp_path)]) == 1
  assert re.search(r"tokenizer +DAMAGED: .*other ids", capsys.readouterr().out)


@pytest.mark.parametrize("harm", ["missing", "cut short"])
def test_every_file_that_lacks_bytes_is_named_with_its_leaf(tmp_path, capsys, harm):
  save(tmp_path, 2, state=make_state(width=256))  # small values stand in the index
  named = []
  for path in sorted((tmp_path / "checkpoints/frozen/state").rglob("d/*")):
    content = path.read_bytes()
    path.unlink() if harm == "missing" else path.write_bytes(content[:20])
    checkpoint_command.main(["verify", str(tmp_path)])
    if found := re.search(f"DAMAGED: {path} is {harm}: (.*);", capsys.readouterr().out):
      named.append(found[1])
    path.write_bytes(content)
  assert sorted(named) == ["the index of its leaves", "values of 'params/clip/kernel'"]


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt"])
def test_a_step_without_its_tree_or_index_is_named(trained, capsys, name):
  path = trained / "checkpoints/2/state" / name
  path.unlink()
  assert checkpoint_command.main(["verify", str(trained)]) == 1
  assert f"DAMAGED: {path} is missing; put a copy back" in capsys.readouterr().out
