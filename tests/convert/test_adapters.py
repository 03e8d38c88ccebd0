"""`miras convert` with adapters: kept, returned, merged."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from miras_jax.config.overrides import with_overrides
from miras_jax.convert import folder as converted
from miras_jax.errors import UserError
from tests.convert import checkpoints
from tests.convert.checkpoints import CFG
from tests.convert.folders import (
  LORA,
  WIDTH,
  assert_same,
  config_of,
  convert,
  read_folder,
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
  """A PEFT folder for the published checkpoint, and its numbers."""
  flat = checkpoints.params(with_overrides(CFG, LORA), seed=1)
  folder = tmp_path_factory.mktemp("adapter")
  state, arrays = {}, {k: x for k, x in flat.items() if "lora_" in k}
  for path, array in arrays.items():
    name, letter = path.split("/")[-2], path[-1].upper()
    for i, layer in enumerate(array):
      key = f"base_model.model.model.layers.{i}.self_attn.{name}.lora_{letter}.weight"
      state[key] = np.ascontiguousarray(layer.T)
  save_file(state, folder / "adapter_model.safetensors")
  settings = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
  (folder / "adapter_config.json").write_text(json.dumps(settings))
  return folder, arrays, state


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, published, adapter):
  folder = tmp_path_factory.mktemp("adapted") / "adapted"
  convert(f"--src={published},{adapter[0]}", f"--dst={folder}")
  return folder


def test_adapters_are_kept_beside_their_kernels(adapted, adapter, flat):
  found = flatten_dict(converted.load_params(adapted)[0], sep="/")
  assert_same(found, flat | adapter[1])
  cfg = config_of(adapted)
  assert (cfg.llama.lora_rank, cfg.llama.lora_alpha) == (2, 6.0)


def test_adapters_return_as_peft_wrote_them(adapted, adapter, tmp_path):
  convert(f"--src={adapted}", f"--dst={tmp_path / 'peft'}", "--to=peft")
  assert_same(read_folder(tmp_path / "peft"), adapter[2])
  settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
  assert (settings["r"], settings["lora_alpha"]) == (2, 6.0)
  assert settings["target_modules"] == ["q_proj", "v_proj"]


def test_a_checkpoint_with_adapters_keeps_its_training_names(adapted, tmp_path):
  convert(f"--src={adapted}", f"--dst={tmp_path / 'training'}", "--to=miras")
  state = read_folder(tmp_path / "training")
  key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.default.weight"
  assert key in state and all(k.startswith("base_model.model.") for k in state)
  convert(f"--src={tmp_path / 'training'}", f"--dst={tmp_path / 'in'}",
          "--tokenizer=none")  # fmt: skip
  first, again = (converted.load_params(f)[0] for f in (adapted, tmp_path / "in"))
  assert_same(
    flatten_dict(again, sep="/"), jax.device_get(flatten_dict(first, sep="/"))
  )


def test_merged_adapters_are_in_the_kernels(adapted, adapter, flat, tmp_path):
  convert(f"--src={adapted}", f"--dst={tmp_path / 'merged'}", "--merge-lora")
  found = flatten_dict(converted.load_params(tmp_path / "merged")[0], sep="/")
  expected = dict(flat)
  for name in ("q_proj", "v_proj"):
    path = f"llm/layers/attn/{name}"
    a, b = adapter[1][f"{path}/lora_a"], adapter[1][f"{path}/lora_b"]
    kernel = flat[f"{path}/kernel"]
    merged = kernel.astype(np.float32) + 6 / 2 * (a @ b)
    expected[f"{path}/kernel"] = merged.astype(kernel.dtype)
  assert found.keys() == expected.keys()
  for key, array in expected.items():
    np.testing.assert_allclose(
      np.asarray(found[key], np.float32),
      array.astype(np.float32),
      rtol=0.01,
      err_msg=key,
    )
  assert config_of(tmp_path / "merged").llama.lora_rank == 0


def test_merging_without_adapters_is_an_error(ours, tmp_path):
  with pytest.raises(UserError, match="no adapters"):
    convert(f"--src={ours}", f"--dst={tmp_path / 'x'}", "--merge-lora")


def test_adapters_of_another_rank_name_both(published, adapter, tmp_path):
  message = rf"lora_A\.weight' has shape \(2, {WIDTH}\).*\({WIDTH}, 4\)"
  with pytest.raises(UserError, match=message):
    convert(f"--src={published},{adapter[0]}", f"--dst={tmp_path / 'x'}",
            "--set=llama.lora_rank=4")  # fmt: skip


def test_the_language_model_alone_is_a_llama_with_its_adapters_merged(
  adapted, published, tmp_path
):
  convert(
    f"--src={adapted}", f"--dst={tmp_path / 'hf'}", "--to=hf", "--shard-gb=0.0001"
  )
  state = {}
  index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
  for name in set(index["weight_map"].values()):
    state |= load_file(tmp_path / "hf" / name)
  llm = {k for k in read_folder(published) if k.startswith(("model.layers", "lm_head"))}
  assert state.keys() == llm | {"model.embed_tokens.weight", "model.norm.weight"}
  settings = json.loads((tmp_path / "hf" / "config.json").read_text())
  assert settings["architectures"] == ["LlamaForCausalLM"]
  assert (settings["hidden_size"], settings["rms_norm_eps"]) == (WIDTH, 1e-6)
  assert (tmp_path / "hf" / "tokenizer.json").is_file()
