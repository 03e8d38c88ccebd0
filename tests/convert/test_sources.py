"""Published checkpoints: which kind a file is, which files a folder means, what config
its shapes say."""

import dataclasses
import json
import pathlib

import ml_dtypes
import numpy as np
import pytest

from miras_jax.config.model import RopeScaling
from miras_jax.config.overrides import with_overrides
from miras_jax.config.variants import LLAMA_VARIANTS, SAM_VARIANTS, VARIANTS
from miras_jax.convert import hf, infer, overlay
from miras_jax.convert.files.tensors import TensorInfo
from miras_jax.convert.job import expected_shapes
from miras_jax.convert.sources import Source, detect_kind
from miras_jax.convert.tables.kinds import KINDS
from miras_jax.convert.tree import empty_at
from miras_jax.errors import UserError
from tests.convert import checkpoints


@pytest.fixture(scope="module")
def flat():
  return checkpoints.params()


@pytest.mark.parametrize("kind", checkpoints.PARTS)
def test_the_names_of_a_file_tell_its_kind(flat, kind):
  keys = list(checkpoints.state_dict(kind, flat))
  found = detect_kind("x", keys)
  assert KINDS[found].knows(keys[0])
  # A training checkpoint without adapters differs by its prefix only; both read it.
  assert found == {"miras-training": "miras"}.get(kind, kind)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_of_any_form_is_read(tmp_path, flat, suffix, shards):
  state = checkpoints.state_dict("clip", flat)
  folder = checkpoints.write(tmp_path / "clip", state, suffix=suffix, shards=shards)
  source = Source(folder)
  assert source.kind == "clip" and source.infos.keys() == state.keys()
  for key, array in state.items():
    np.testing.assert_array_equal(source.read(key), array)
  source.close()


def test_clip_without_its_prefix_is_the_same_tower(tmp_path, flat):
  state = checkpoints.state_dict("clip", flat)
  bare = {key.removeprefix("vision_model."): x for key, x in state.items()}
  source = Source(checkpoints.write(tmp_path / "clip", bare))
  assert infer.our_shapes([source]) == {
    k: x.shape for k, x in flat.items() if k.startswith("clip/")
  }
  source.close()


def test_llava_of_transformers_five_has_other_beginnings(tmp_path, flat):
  state = checkpoints.state_dict("llava-hf", flat)
  renamed = {
    key.replace("vision_tower.vision_model.", "model.vision_tower.")
    .replace("language_model.model.", "model.language_model.")
    .replace("language_model.lm_head", "lm_head")
    .replace("multi_modal_projector", "model.multi_modal_projector"): x
    for key, x in state.items()
  }
  source = Source(checkpoints.write(tmp_path / "llava", renamed))
  parts = ("llm/", "clip/", "projector/")
  assert source.kind == "llava-hf"
  assert infer.our_shapes([source]) == {
    k: x.shape for k, x in flat.items() if k.startswith(parts)
  }
  source.close()


@pytest.mark.parametrize("kind, tied", [("gemma", True), ("llama", False)])
def test_a_gemma_is_tied_though_its_settings_leave_that_out(tmp_path, flat, kind, tied):
  state = checkpoints.state_dict("llama", flat)
  state["lm_head.weight"] = state["model.embed_tokens.weight"]
  folder = checkpoints.write(tmp_path / kind, state, settings={"model_type": kind})
  source = Source(folder)
  overlay.settle_head([source])
  source.close()
  assert ("lm_head.weight" not in source.infos) == tied


def test_an_unknown_key_is_named_with_its_file(tmp_path, flat):
  state = checkpoints.state_dict("sam", flat) | {"model.teacher": np.zeros(3, "f4")}
  folder = checkpoints.write(tmp_path / "sam", state)
  with pytest.raises(UserError, match="sam: unknown key 'model.teacher'.*'sam'"):
    Source(folder)


def test_an_unknown_kind_is_named(tmp_path, flat):
  folder = checkpoints.write(tmp_path / "a", checkpoints.state_dict("clip", flat))
  with pytest.raises(UserError, match="unknown --from=clop; there are auto, llama"):
    Source(folder, "clop")


def test_two_files_without_an_index_are_ambiguous(tmp_path):
  for name in ("a.pth", "b.pth"):
    (tmp_path / name).write_bytes(b"")
  with pytest.raises(UserError, match="which of a.pth, b.pth"):
    Source(tmp_path)


def test_a_missing_shard_is_named(tmp_path, flat):
  folder = tmp_path / "clip"
  checkpoints.write(folder, checkpoints.state_dict("clip", flat), shards=2)
  (folder / "model-00002-of-00002.safetensors").unlink()
  with pytest.raises(UserError, match="00002-of-00002.safetensors: missing"):
    Source(folder)


def test_a_key_that_the_index_promises_and_no_file_has_is_named(tmp_path, flat):
  folder = tmp_path / "clip"
  checkpoints.write(folder, checkpoints.state_dict("clip", flat), shards=2)
  index = folder / "model.safetensors.index.json"
  body = json.loads(index.read_text())
  body["weight_map"]["post_layernorm.gain"] = "model-00001-of-00002.safetensors"
  index.write_text(json.dumps(body))
  with pytest.raises(UserError, match="'post_layernorm.gain' is missing"):
    Source(folder)


@pytest.mark.parametrize("path", ["nothing", "empty"])
def test_a_path_without_weights_is_named(tmp_path, path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=f"{path}: no "):
    Source(tmp_path / path)


# -- configs --------------------------------------------------------------------------


class Shapes:
  """A source of a full-size model: names and shapes, no numbers."""

  def __init__(self, kind, cfg, parts, *, settings=None, adapter=None):
    self.kind, self.table = kind, KINDS[kind]
    self.folder, self.miras, self.openclip = pathlib.Path("full"), {}, {}
    self.settings, self.adapter = settings or {}, adapter or {}
    shapes = {k: s for k, s in expected_shapes(cfg).items() if k.split("/")[0] in parts}
    self.infos = {}
    for key, origin in self.table.origins(shapes).items():
      empty = (empty_at(shapes[p.path], p) for p in origin.places)
      shape = origin.rule.inverse(*empty).shape
      self.infos[key] = TensorInfo(shape, np.dtype(ml_dtypes.bfloat16))

  def file_of(self, key):
    return "full"


def config_of(*sources, overrides=None):
  return infer.miras_config(sources, infer.our_shapes(sources), overrides or {})


@pytest.mark.parametrize("name", ["7b", "13b"])
def test_published_parts_give_the_published_config(name):
  cfg = VARIANTS[name]
  settings = json.loads(hf.settings_of(cfg.llama, dtype="float16"))
  llm = Shapes("llama", cfg, ["llm"], settings=settings)
  towers = [Shapes(kind, cfg, [kind]) for kind in ("clip", "convnext", "sam")]
  assert config_of(llm, *towers) == cfg


def test_a_llama_without_settings_is_the_published_one_of_its_shape():
  cfg = VARIANTS["13b"]
  parts = [Shapes("llama", cfg, ["llm"]), Shapes("clip", cfg, ["clip"])]
  assert config_of(*parts).llama == cfg.llama


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_every_sam_is_known_by_its_shapes(name):
  encoder = dataclasses.replace(SAM_VARIANTS[name], out_width=64)
  cfg = dataclasses.replace(VARIANTS["tiny"], sam_encoder=encoder)
  assert config_of(Shapes("sam-hf", cfg, ["sam"])).sam_encoder == encoder


def test_a_projector_without_patch_mining_needs_no_second_encoder():
  cfg = dataclasses.replace(VARIANTS["7b"], convnext=None)
  settings = json.loads(hf.settings_of(cfg.llama, dtype="float16"))
  parts = ["llm", "clip", "projector", "seg_prompt", "sam"]
  lisa = dataclasses.replace(
    cfg, seg_prompt=dataclasses.replace(cfg.seg_prompt, alignment="none")
  )
  found = config_of(Shapes("lisa", lisa, parts, settings=settings))
  assert found == lisa


def test_a_projector_of_one_layer_is_known_by_its_name():
  cfg = with_overrides(VARIANTS["7b"], {"convnext": None, "projector": "linear"})
  llava = Shapes("llava", cfg, ["llm", "clip", "projector"])
  assert "model.mm_projector.weight" in llava.infos
  assert config_of(llava).projector == "linear"


def test_adapters_give_rank_and_targets():
  cfg = with_overrides(
    VARIANTS["7b"], {"llama.lora_rank": 8, "llama.lora_targets": ["q_proj", "v_proj"]}
  )
  adapter = {"r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
  llm = Shapes("peft", cfg, ["llm"], adapter=adapter)
  found = config_of(llm).llama
  assert (found.lora_rank, found.lora_alpha) == (8, 32.0)
  assert found.lora_targets == ("q_proj", "v_proj")


@pytest.mark.parametrize("name", LLAMA_VARIANTS)
def test_settings_of_every_decoder_are_read_back(name):
  cfg = LLAMA_VARIANTS[name]
  settings = json.loads(hf.settings_of(cfg, dtype="bfloat16"))
  assert hf.llama_config(settings, path="config.json") == cfg


def test_transformers_reads_our_settings(tmp_path):
  from transformers import AutoConfig

  text = hf.settings_of(LLAMA_VARIANTS["llama3.1-8b"], dtype="bfloat16")
  (tmp_path / "config.json").write_text(text)
  found = AutoConfig.from_pretrained(tmp_path)
  assert found.num_key_value_heads == 8
  assert found.rope_parameters["rope_theta"] == 5e5
  assert found.rope_parameters["rope_type"] == "llama3"


def test_the_nested_settings_of_llava_are_read():
  inner = {"model_type": "llama", "vocab_size": 32064, "rms_norm_eps": 1e-5}
  found = hf.llama_config({"model_type": "llava", "text_config": inner}, path="x")
  assert found == dataclasses.replace(LLAMA_VARIANTS["llama2-7b"], vocab_size=32064)


SETTINGS = json.loads(hf.settings_of(LLAMA_VARIANTS["llama2-7b"], dtype="float16"))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"model_type": "gpt2"}, "model_type 'gpt2'"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope scaling 'yarn'"),
    ({"num_key_value_heads": 7}, "num_heads"),
    ({"hidden_size": "wide"}, "path/config.json"),
  ],
)
def test_settings_that_we_cannot_compute_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    hf.llama_config(SETTINGS | change, path="path/config.json")


def test_a_missing_setting_is_named():
  settings = {k: v for k, v in SETTINGS.items() if k != "intermediate_size"}
  with pytest.raises(UserError, match="config.json: no field 'intermediate_size'"):
    hf.llama_config(settings, path="config.json")


@pytest.mark.parametrize(
  "overrides",
  [
    {},
    {"convnext": None},
    {"llama.rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    {"llama.lora_rank": 4, "llama.lora_targets": ("q_proj",), "clip.width": 512},
  ],
)
def test_a_config_is_a_variant_and_what_differs(overrides):
  cfg = with_overrides(VARIANTS["13b"], overrides)
  variant, found = infer.overrides_of(cfg)
  again = json.loads(json.dumps(found))
  assert with_overrides(VARIANTS[variant], again) == cfg


def test_a_sliding_window_is_a_warning(caplog):
  settings = SETTINGS | {"model_type": "mistral", "sliding_window": 4096}
  with caplog.at_level("WARNING", logger="miras_jax"):
    hf.llama_config(settings, path="config.json")
  assert "config.json: sliding_window 4096" in caplog.text
