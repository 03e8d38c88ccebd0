"""`miras convert` takes nothing in silence: it uses, compares or names it."""

import contextlib
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from miras_jax.checkpoint import lock
from miras_jax.config.overrides import with_overrides
from miras_jax.convert import command
from miras_jax.convert import folder as converted
from miras_jax.convert.files import stream, torch_write
from miras_jax.errors import UserError
from tests.convert import checkpoints
from tests.convert.checkpoints import CFG, SET

CONTROL = ("[SEG]", "<im_start>", "<im_end>", "<im_patch>", "[OBJ]")
WIDTH, VOCAB = CFG.llama.width, CFG.llama.vocab_size
WRAP = "base_model.model."
ALPHA = "--set=llama.lora_alpha=6"


def convert(sources, dst, *args):
  src = ",".join(map(str, sources))
  command.main([f"--src={src}", f"--dst={dst}", "--tokenizer=none", *SET, *args])
  return flatten_dict(converted.load_params(dst)[0], sep="/")


def config_of(folder):
  with converted.FolderTree(folder) as tree:
    return tree.config.model.build()


@pytest.fixture(scope="module")
def flat():
  return checkpoints.params()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, flat):
  folder = tmp_path_factory.mktemp("whole") / "whole"
  return checkpoints.write(folder, checkpoints.state_dict("miras", flat))


def adapter(folder, more=(), *, alpha=6):
  """A PEFT folder of rank 2 for the queries of both layers, with `more` tensors."""
  folder.mkdir()
  state = dict(more)
  for i in range(CFG.llama.depth):
    stem = f"{WRAP}model.layers.{i}.self_attn.q_proj.lora_"
    state[f"{stem}A.weight"] = np.full((2, WIDTH), 0.1, np.float32)
    state[f"{stem}B.weight"] = np.full((WIDTH, 2), 0.1, np.float32)
  save_file(state, folder / "adapter_model.safetensors")
  settings = {"r": 2, "lora_alpha": alpha, "target_modules": ["q_proj"]}
  if alpha is not None:
    (folder / "adapter_config.json").write_text(json.dumps(settings))
  return folder


# -- adapters and what comes with them ------------------------------------------------


@pytest.mark.parametrize("first", ["base", "adapter"])
def test_an_adapter_s_embedding_and_head_replace_the_base_s(tmp_path, whole, first):
  more = {
    f"{WRAP}model.embed_tokens.weight": np.full((VOCAB, WIDTH), 0.25, np.float32),
    f"{WRAP}lm_head.weight": np.full((VOCAB, WIDTH), 0.5, np.float32),
  }
  sources = [whole, adapter(tmp_path / "adapter", more)]
  found = convert(sources if first == "base" else sources[::-1], tmp_path / "o")
  assert (np.asarray(found["llm/embed/embedding"]) == 0.25).all()
  assert (np.asarray(found["llm/lm_head/kernel"]) == 0.5).all()


def test_an_adapter_s_embedding_may_have_more_rows_than_the_base_s(tmp_path, flat):
  state = checkpoints.state_dict("miras", flat)
  for key in ("model.embed_tokens.weight", "lm_head.weight"):
    state[key] = state[key][:290]
  cfg = with_overrides(CFG, {"llama.vocab_size": 290})
  base = checkpoints.write(tmp_path / "base", state, cfg=cfg)
  saved = ".modules_to_save.default.weight"
  more = {
    f"{WRAP}model.embed_tokens{saved}": np.full((VOCAB, WIDTH), 0.25, np.float32),
    f"{WRAP}lm_head{saved}": np.full((VOCAB, WIDTH), 0.5, np.float32),
  }
  found = convert([base, adapter(tmp_path / "adapter", more)], tmp_path / "o")
  assert found["llm/embed/embedding"].shape == (VOCAB, WIDTH)
  assert config_of(tmp_path / "o").llama.vocab_size == VOCAB


def test_the_tokenizer_beside_the_embedding_that_is_taken_is_taken(tmp_path, whole):
  more = {f"{WRAP}model.embed_tokens.weight": np.zeros((VOCAB, WIDTH), np.float32)}
  folder = adapter(tmp_path / "adapter", more)
  checkpoints.tokenizer(folder, control=CONTROL, size=VOCAB)
  other = checkpoints.tokenizer(tmp_path / "other", control=CONTROL[::-1], size=VOCAB)
  base = tmp_path / "base"
  base.mkdir()
  for path in (*whole.iterdir(), *other.iterdir()):
    (base / path.name).write_bytes(path.read_bytes())
  command.main([f"--src={base},{folder}", f"--dst={tmp_path / 'o'}", *SET])
  from input_pipeline.tokenizer import load_tokenizer

  assert load_tokenizer(tmp_path / "o" / "tokenizer").ids.seg == VOCAB - 5


TUNED = {f"{WRAP}model.mm_projector.0.weight": (WIDTH, CFG.clip.width)}


@pytest.mark.parametrize("source", ["folder", "file", "both"])
def test_what_trained_beside_the_adapters_is_used(tmp_path, whole, source):
  folder = adapter(tmp_path / "adapter")
  tuned = {k: np.full(s, 0.25, np.float32) for k, s in TUNED.items()}
  torch_write.save(folder / "non_lora_trainables.bin", tuned)
  paths = {
    "folder": [folder],
    "file": [folder / "adapter_model.safetensors"],
    "both": [folder, folder / "non_lora_trainables.bin"],
  }[source]
  found = convert([whole, *paths], tmp_path / "o")
  assert (np.asarray(found["projector/fc1/kernel"]) == 0.25).all()


def test_two_adapters_for_one_place_are_an_error(tmp_path, whole):
  sources = [whole, adapter(tmp_path / "a"), adapter(tmp_path / "b")]
  with pytest.raises(UserError, match="are both our"):
    convert(sources, tmp_path / "o")


def test_alpha_of_adapters_without_settings_is_asked_for(tmp_path, whole):
  sources = [whole, adapter(tmp_path / "adapter", alpha=None)]
  with pytest.raises(UserError, match="lora_alpha .*--set=llama.lora_alpha=16"):
    convert(sources, tmp_path / "o")
  convert(sources, tmp_path / "o", ALPHA.replace("6", "5"))
  assert config_of(tmp_path / "o").llama.lora_alpha == 5


@pytest.mark.parametrize("rank", [1.5, 0, "2"])
def test_a_rank_that_is_no_whole_number_is_named(tmp_path, whole, rank):
  folder = adapter(tmp_path / "adapter")
  settings = {"r": rank, "lora_alpha": 6}
  (folder / "adapter_config.json").write_text(json.dumps(settings))
  with pytest.raises(UserError, match=f"adapter_config.json: r is {rank!r}, want"):
    convert([whole, folder], tmp_path / "o")


# -- a tied head ----------------------------------------------------------------------


def tied(folder, flat, head):
  """A MIRAS whose settings say tied, with a head of its own; -> folder."""
  state = checkpoints.state_dict("llama", flat)
  if head is not None:
    state["lm_head.weight"] = head
  cfg = with_overrides(CFG, {"llama.tie_embeddings": True})
  return checkpoints.write(folder, state, cfg=cfg)


@pytest.fixture(scope="module")
def rest(tmp_path_factory):
  folder = tmp_path_factory.mktemp("rest") / "rest"
  return checkpoints.write(folder, checkpoints.towers(CFG), settings={})


def test_a_head_that_differs_from_a_tied_embedding_is_kept(
  tmp_path, flat, rest, caplog, monkeypatch
):
  monkeypatch.setattr(logging.getLogger("miras_jax"), "propagate", True)
  head = np.asarray(flat["llm/embed/embedding"]).copy()
  head[-1, -1] += 1
  found = convert([tied(tmp_path / "a", flat, head), rest], tmp_path / "o")
  np.testing.assert_array_equal(found["llm/lm_head/kernel"], head.T)
  assert not config_of(tmp_path / "o").llama.tie_embeddings
  assert "lm_head.weight is not model.embed_tokens.weight" in caplog.text


def test_a_head_that_repeats_a_tied_embedding_goes(tmp_path, flat, rest):
  head = flat["llm/embed/embedding"]
  found = convert([tied(tmp_path / "a", flat, head), rest], tmp_path / "o")
  assert "llm/lm_head/kernel" not in found
  assert config_of(tmp_path / "o").llama.tie_embeddings


def test_an_adapter_s_own_head_unties_a_tied_base(tmp_path, flat, rest):
  state = checkpoints.state_dict("llama", flat)
  del state["lm_head.weight"]
  cfg = with_overrides(CFG, {"llama.tie_embeddings": True})
  base = checkpoints.write(tmp_path / "a", state, cfg=cfg)
  more = {f"{WRAP}lm_head.weight": np.full((VOCAB, WIDTH), 0.5, np.float32)}
  found = convert([base, rest, adapter(tmp_path / "adapter", more)], tmp_path / "o")
  assert (np.asarray(found["llm/lm_head/kernel"]) == 0.5).all()


# -- CLIP's settings ------------------------------------------------------------------


def clip_of(tmp_path, flat, whole, files):
  """ClipConfig of a tower with these settings beside it, {file: object}."""
  state = checkpoints.state_dict("miras", flat)
  tower = checkpoints.state_dict("clip", flat)
  base = {k: x for k, x in state.items() if "vision_tower.vision" not in k}
  checkpoints.write(tmp_path / "base", base)
  folder = checkpoints.write(tmp_path / "clip", tower, settings={})
  for file, settings in files.items():
    (folder / file).write_text(json.dumps(settings))
  convert([folder, tmp_path / "base"], tmp_path / "o", "--from=clip,miras")
  return config_of(tmp_path / "o").clip


QUICK = {"model_cfg": {"quick_gelu": True}}
NESTED = {"vision_config": {"hidden_act": "gelu", "layer_norm_eps": 1e-6}}


@pytest.mark.parametrize(
  "files, activation, eps",
  [
    ({}, "quick_gelu", 1e-5),
    ({"config.json": NESTED}, "gelu", 1e-6),
    ({"config.json": {"hidden_act": "gelu", "patch_size": 8}}, "gelu", 1e-5),
    ({"config.json": {"hidden_act": "silu"}}, "quick_gelu", 1e-5),  # a decoder's
    ({"open_clip_config.json": {"model_cfg": {}}}, "gelu", 1e-5),
    ({"open_clip_config.json": QUICK}, "quick_gelu", 1e-5),
  ],
)
def test_the_activation_of_clip_is_that_of_its_settings(
  tmp_path, flat, whole, files, activation, eps
):
  cfg = clip_of(tmp_path, flat, whole, files)
  assert (cfg.activation, cfg.norm_eps) == (activation, eps)


def test_another_activation_of_clip_is_refused_by_name(tmp_path, flat, whole):
  files = {"config.json": {"vision_config": {"hidden_act": "gelu_new"}}}
  with pytest.raises(UserError, match="clip/config.json: hidden_act 'gelu_new'"):
    clip_of(tmp_path, flat, whole, files)


# -- paths and locks ------------------------------------------------------------------


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, whole, monkeypatch):
  home = tmp_path / "home"
  home.mkdir()
  monkeypatch.setenv("HOME", str(home))
  monkeypatch.chdir(tmp_path)
  (home / "whole").symlink_to(whole)
  adapter(home / "adapter")
  command.main(["--src=~/whole,~/adapter", "--dst=~/o", "--tokenizer=none", *SET])
  assert (home / "o" / "manifest.json").is_file()
  assert not (tmp_path / "~").exists()
  command.main(["--verify=~/o"])
  with pytest.raises(UserError, match=f"--tokenizer={home}/t: no such"):
    command.main(["--src=~/whole", "--dst=~/p", "--tokenizer=~/t", *SET])


def test_a_bucket_as_destination_is_refused(whole):
  with pytest.raises(UserError, match="ftp:// is not supported"):
    command.main([f"--src={whole}", "--dst=ftp://bucket/o"])


def test_a_second_convert_into_a_folder_says_who_holds_it(tmp_path, whole):
  dst = tmp_path / "o"
  partial = stream.partial_folder(dst)
  partial.mkdir()
  code = (
    "import sys; from miras_jax.checkpoint import lock\n"
    "with lock.hold(sys.argv[1], 'miras convert'):\n"
    "  print('held', flush=True); sys.stdin.read()"
  )
  other = subprocess.Popen([sys.executable, "-c", code, partial], stdin=-1, stdout=-1)
  assert other.stdout.readline() == b"held\n"
  try:
    with pytest.raises(UserError, match=f"in use by `miras convert`.*{other.pid}"):
      convert([whole], dst)
    assert not dst.exists() and lock.holder(partial)
  finally:
    other.communicate()
  convert([whole], dst)


def test_a_second_stand_in_into_a_folder_leaves_the_first_alone(tmp_path):
  partial = stream.partial_folder(tmp_path / "o")
  partial.mkdir()
  (partial / "sam.pth").touch()
  with lock.hold(partial, "miras convert"):
    with pytest.raises(UserError, match="in use by `miras convert`"):
      command.main(["--stand-in=tiny", f"--dst={tmp_path / 'o'}"])
    assert (partial / "sam.pth").exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_convert_whose_folder_another_one_just_wrote_says_so(
  tmp_path, whole, moment, monkeypatch
):
  """The other one ends before, or after, this one has opened the lock's file."""
  dst, hold = tmp_path / "o", lock.hold

  def ends(folder, text):
    (folder / stream.MANIFEST).touch()
    if moment == "before":
      folder.rename(dst)
    with hold(folder, text):
      folder.rename(dst)
      yield

  monkeypatch.setattr(lock, "hold", contextlib.contextmanager(ends))
  with pytest.raises(UserError, match="o exists already"):
    convert([whole], dst)
  assert [path.name for path in tmp_path.iterdir()] == ["o"]


def test_no_lock_stays_in_what_was_written(tmp_path, whole):
  convert([whole], tmp_path / "o")
  assert not list(tmp_path.rglob(lock.NAME))
  assert lock.NAME not in stream.read_manifest(tmp_path / "o")["files"]
  assert load_file(next((tmp_path / "o").rglob("*.safetensors")))
