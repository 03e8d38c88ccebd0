"""Random published parts: files that our readers, and torch, take for the real ones."""

import json
import shutil

import pytest

from miras_jax.config.overrides import with_overrides
from miras_jax.config.variants import TINY
from miras_jax.convert import command, stand_in
from miras_jax.convert.folder import FolderTree
from miras_jax.convert.job import expected_shapes
from miras_jax.convert.sources import Source
from miras_jax.errors import UserError

PARTS = {"vicuna": "llama", "clip": "clip", "convnext": "convnext", "sam.pth": "sam"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
  folder = tmp_path_factory.mktemp("stand_in") / "parts"
  command.main(["--stand-in=tiny", f"--dst={folder}"])
  return folder


@pytest.fixture(scope="module")
def start(parts, tmp_path_factory):
  """What `miras convert` makes of all four, without one `--set`."""
  folder = tmp_path_factory.mktemp("start") / "start"
  src = ",".join(str(parts / name) for name in PARTS)
  new = "--new=projector,mining,seg_prompt"
  command.main([f"--src={src}", new, "--model=tiny", f"--dst={folder}"])
  return folder


@pytest.mark.parametrize("name", PARTS)
def test_the_names_alone_say_which_part_it_is(parts, name):
  source = Source(parts / name)
  assert source.kind == PARTS[name]
  source.close()


def test_together_they_are_the_tiny_model(start):
  with FolderTree(start) as tree:
    rows = tree.infos["llm/embed/embedding"].shape[0]
    shapes = {path: info.shape for path, info in tree.infos.items()}
  assert shapes == expected_shapes(with_overrides(TINY, {"llama.vocab_size": rows}))


@pytest.mark.parametrize(
  "part, field",
  [
    ("convnext", "image_size"),
    ("convnext", "target_grid"),
    ("clip", "num_heads"),
    ("sam_decoder", "num_heads"),
    ("seg_prompt", "num_heads"),
  ],
)
def test_what_no_weight_shows_is_that_of_the_named_size(start, part, field):
  with FolderTree(start) as tree:
    found = getattr(tree.config.model.build(), part)
  assert getattr(found, field) == getattr(getattr(TINY, part), field)


def test_a_field_that_is_set_wins_over_the_named_size(parts, tmp_path):
  src = ",".join(str(parts / name) for name in PARTS)
  command.main([
    f"--src={src}", "--new=projector,mining,seg_prompt", "--model=tiny",
    "--set=sam_decoder.num_heads=2", f"--dst={tmp_path / 'start'}",
  ])  # fmt: skip
  text = (tmp_path / "start" / "config.json").read_text()
  assert json.loads(text)["model"]["overrides"]["sam_decoder.num_heads"] == 2


def test_the_tokenizer_is_the_language_models_wherever_that_stands(parts, tmp_path):
  clip = shutil.copytree(parts / "clip", tmp_path / "clip")
  (clip / "tokenizer.json").write_text("{}")  # published CLIP has one of its own
  src = f"{clip},{parts / 'convnext'},{parts / 'sam.pth'},{parts / 'vicuna'}"
  command.main([
    f"--src={src}", "--new=projector,mining,seg_prompt", "--model=tiny",
    f"--dst={tmp_path / 'start'}",
  ])  # fmt: skip
  saved = tmp_path / "start" / "tokenizer" / "tokenizer.model"
  assert saved.read_bytes() == (parts / "vicuna" / "tokenizer.model").read_bytes()


def test_a_folder_that_holds_something_is_left_alone(parts):
  with pytest.raises(UserError, match="exists already"):
    stand_in.write(parts, "tiny")


@pytest.mark.parametrize("size", stand_in.SIZES)
def test_every_size_is_taken_for_itself(tmp_path, size):
  stand_in.write(tmp_path / "parts", size)
  src = ",".join(str(tmp_path / "parts" / name) for name in PARTS)
  command.main([
    f"--src={src}", "--new=projector,mining,seg_prompt", f"--model={size}",
    f"--dst={tmp_path / 'start'}",
  ])  # fmt: skip
  with FolderTree(tmp_path / "start") as tree:
    assert tree.config.model.variant == size


@pytest.mark.torch
@pytest.mark.parametrize("name", ["sam.pth", "convnext/open_clip_pytorch_model.bin"])
def test_torch_opens_its_files(parts, name):
  torch = pytest.importorskip("torch")
  state = torch.load(parts / name, weights_only=True)
  with_names = Source(parts / name)
  assert state.keys() == with_names.infos.keys()
  with_names.close()
