"""Families of decoders: one table, and a new row is all that a new one needs."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from miras_jax.config import families
from miras_jax.config.families import FAMILIES, family_of
from miras_jax.config.family import Family, sizes
from miras_jax.config.overrides import with_overrides
from miras_jax.config.variants import VARIANTS
from miras_jax.convert import command, decoder, folder, hf, infer
from miras_jax.convert.sources import Source
from miras_jax.convert.tables import llama as table
from miras_jax.convert.tables.mapping import Table
from miras_jax.errors import UserError
from tests.convert import checkpoints


def smallest(family):
  return min(family.variants.values(), key=lambda cfg: cfg.width * cfg.depth)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_transformers_takes_our_settings_for_those_of_the_family(family, tmp_path):
  from transformers import AutoConfig

  cfg = smallest(family)
  source = {"model_type": family.name}
  text = hf.settings_of(cfg, dtype="bfloat16", source=source)
  (tmp_path / "config.json").write_text(text)
  found = AutoConfig.from_pretrained(tmp_path)
  assert type(found).__name__ == family.architecture.replace("ForCausalLM", "Config")
  assert hf.llama_config(found.to_dict(), path="config.json") == cfg


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_what_a_config_json_leaves_out_is_the_default_of_transformers(family):
  import transformers

  config = getattr(transformers, family.architecture.replace("ForCausalLM", "Config"))
  theirs = config().to_dict()
  assert {k: theirs[k] for k in family.defaults} == family.defaults


def test_no_two_families_name_a_leaf_differently():
  ours = [rule.dst for rule in table.RULES]
  assert len(set(ours)) == len(ours)


def test_a_feature_that_no_decoder_has_is_refused():
  with pytest.raises(ValueError, match="family 'x': 'depth' is not in"):
    Family(name="x", architecture="X", features={"depth": 3})


def test_a_variant_with_other_features_than_its_family_is_refused():
  with pytest.raises(ValueError, match="'x-1b' has other features than 'x'"):
    Family(name="x", architecture="X", features={"qk_norm": True},
           variants={"x-1b": sizes(8, 8, 1, 2)})  # fmt: skip


def test_features_that_no_family_has_cannot_be_published():
  cfg = dataclasses.replace(smallest(FAMILIES["qwen3"]), embed_scale=True)
  with pytest.raises(
    UserError, match="no config.json can be .* has .*embed_scale=True"
  ):
    hf.settings_of(cfg, dtype="float32")


@pytest.mark.parametrize("source, name", [("mistral", "mistral"), ("qwen2", "llama")])
def test_the_source_s_family_is_kept_where_it_has_the_features(source, name):
  cfg = smallest(FAMILIES["llama"])
  text = hf.settings_of(cfg, dtype="float32", source={"model_type": source})
  assert json.loads(text)["model_type"] == name


def test_the_first_gemma_says_gelu_and_means_its_tanh_form():
  settings = json.loads(hf.settings_of(smallest(FAMILIES["gemma"]), dtype="float32"))
  found = hf.llama_config(settings | {"hidden_act": "gelu"}, path="config.json")
  assert found.activation == "gelu_tanh"


# -- shapes alone ---------------------------------------------------------------------


def shapes_of(cfg):
  attn, tied = "llm/layers/attn/", cfg.tie_embeddings
  query, key = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
  shapes = {
    "llm/embed/embedding": (cfg.vocab_size, cfg.width),
    "llm/layers/mlp/gate_proj/kernel": (cfg.depth, cfg.width, cfg.mlp_width),
    f"{attn}q_proj/kernel": (cfg.depth, cfg.width, query),
    f"{attn}k_proj/kernel": (cfg.depth, cfg.width, key),
  }
  shapes |= {f"{attn}q_norm/scale": (cfg.depth, cfg.head_dim)} if cfg.qk_norm else {}
  shapes |= {f"{attn}q_proj/bias": (cfg.depth, query)} if cfg.qkv_bias else {}
  return shapes | ({} if tied else {"llm/lm_head/kernel": (cfg.width, cfg.vocab_size)})


# Sizes that settings alone tell from another one, and in what.
ASKED = {
  "llama3-8b": ["rope_scaling"],
  "llama3.1-8b": ["rope_scaling"],
  "mistral-7b": ["rope_theta"],
  "mistral-7b-v0.2": ["rope_theta"],
  "qwen3-4b": ["rope_theta"],
  "qwen3-4b-2507": ["rope_theta"],
}


@pytest.mark.parametrize("name", families.variants())
def test_a_published_size_is_known_by_its_shapes(name):
  cfg = families.variants()[name]
  said = {field: getattr(cfg, field) for field in ASKED.get(name, ())}
  found = decoder.of_shapes(shapes_of(cfg), None, [f"llama.{f}" for f in said])
  assert with_overrides(found, said) == cfg


@pytest.mark.parametrize("name", ASKED)
def test_what_shapes_do_not_show_is_asked_for_by_name(name):
  shapes = shapes_of(families.variants()[name])
  field = ASKED[name][0]
  with pytest.raises(
    UserError, match=f"folder: no config.json, .*--set='llama.{field}=.* as .*{name}"
  ):
    decoder.of_shapes(shapes, None, where="folder")


def test_a_vocabulary_near_none_leaves_every_size_of_the_shapes():
  cfg = dataclasses.replace(families.variants()["llama3-8b"], vocab_size=64_000)
  with pytest.raises(UserError, match="=500000.0' as llama3-8b, .*=10000.0' as mistr"):
    decoder.of_shapes(shapes_of(cfg), None)


def test_a_few_added_rows_still_name_the_vocabulary():
  cfg = dataclasses.replace(families.variants()["mistral-7b-v0.3"], vocab_size=32_773)
  assert decoder.of_shapes(shapes_of(cfg), None).rope_theta == 1e6


def test_a_size_that_lacks_a_leaf_is_still_that_size():
  cfg = families.variants()["llama2-13b"]
  shapes = shapes_of(cfg)
  del shapes["llm/lm_head/kernel"]
  assert decoder.of_shapes(shapes, None) == cfg


def test_normed_heads_show_their_width_at_any_size():
  cfg = dataclasses.replace(
    families.variants()["qwen3-8b"], width=96, depth=3, num_heads=6, num_kv_heads=3,
    head_dim=20, vocab_size=50,
  )  # fmt: skip
  found = decoder.of_shapes(shapes_of(cfg), None)
  assert dataclasses.replace(found, vocab_size=50) == cfg


# -- a new row ------------------------------------------------------------------------

TOY = Family(
  name="toy",
  architecture="ToyForCausalLM",
  features={"qk_norm": True, "qkv_bias": True, "activation": "gelu_tanh"},
  defaults={"rms_norm_eps": 1e-3},
  layer_keys=(("mlp.sub_norm.weight", "mlp/sub_norm/scale"),),
)


@pytest.fixture
def toy(monkeypatch):
  """The size of a toy in a test's whole model, once its row is in the table."""
  monkeypatch.setitem(FAMILIES, "toy", TOY)
  features = {f"llama.{k}": v for k, v in TOY.features.items()}
  size = {"llama.num_heads": 4, "llama.num_kv_heads": 2, "llama.head_dim": 6}
  return with_overrides(checkpoints.CFG, features | size | {"llama.norm_eps": 1e-3})


def published(toy, tmp_path):
  """A toy's weights and a config.json that leaves out what toys have anyway."""
  state = checkpoints.state_dict("llama", checkpoints.params(toy))
  settings = json.loads(hf.settings_of(toy.llama, dtype="float32"))
  del settings["rms_norm_eps"]
  return checkpoints.write(tmp_path / "toy", state, settings=settings), state


@pytest.mark.parametrize("kind", ["auto", "toy"])
def test_one_row_makes_a_new_family_s_folder_known(toy, tmp_path, kind):
  path, state = published(toy, tmp_path)
  source = Source(path, kind)
  found = infer.miras_config([source], infer.our_shapes([source]), {})
  source.close()
  assert found.llama == toy.llama
  assert any("q_norm" in key for key in state)


def test_one_row_takes_a_new_family_in_and_out_bit_identical(toy, tmp_path):
  path, state = published(toy, tmp_path)
  others = checkpoints.write(tmp_path / "rest", checkpoints.towers(toy), settings={})
  command.main([f"--src={path},{others}", f"--dst={tmp_path / 'ours'}",
                "--from=auto,miras", "--tokenizer=none", *checkpoints.SET])  # fmt: skip
  with folder.FolderTree(tmp_path / "ours") as tree:
    assert tree.config.model.build().llama == toy.llama
  command.main([f"--src={tmp_path / 'ours'}", f"--dst={tmp_path / 'out'}", "--to=hf"])
  back = load_file(tmp_path / "out" / "model.safetensors")
  assert back.keys() == state.keys()
  assert all(np.array_equal(back[key], state[key]) for key in state)
  settings = json.loads((tmp_path / "out" / "config.json").read_text())
  assert (settings["model_type"], settings["rms_norm_eps"]) == ("toy", 1e-3)


def test_a_row_s_own_names_are_in_the_table_of_names():
  rules = Table(table.rules([*FAMILIES.values(), TOY]))
  (place,) = rules.places("model.layers.3.mlp.sub_norm.weight")
  assert (place.path, place.layer) == ("llm/layers/mlp/sub_norm/scale", 3)


def test_every_variant_of_the_whole_model_has_a_family():
  assert {family_of(cfg.llama).name for cfg in VARIANTS.values()} == {"llama"}
