"""Folders of transformers read by us, and those of `--to=hf` read by transformers."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miras_jax.convert import command, hf
from miras_jax.parity.port import Port, run
from tests import golden_folder
from tests.convert import checkpoints, golden_source
from tests.live import reference
from tests.live.reference import torch
from tests.shared_data import GOLDEN, needs_golden

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch


def merged_model(tmp_path, golden):
  """A golden folder's decoder with its adapters merged, opened by transformers."""
  fields = golden_source.write(tmp_path / "source", golden)
  adapters = tmp_path / "lora"
  adapters.mkdir()
  lora = load_file(golden / "lora_adapter.safetensors")
  save_file(lora, adapters / "adapter_model.safetensors")
  config = json.loads((golden / "config.json").read_text())["lora"]
  settings = {"r": config["r"], "lora_alpha": config["alpha"]}
  (adapters / "adapter_config.json").write_text(json.dumps(settings))
  source = f"--src={tmp_path / 'source'},{adapters}"
  command.main([source, f"--dst={tmp_path / 'hf'}", "--to=hf", *fields])
  model = transformers.AutoModelForCausalLM.from_pretrained(
    str(tmp_path / "hf"), attn_implementation="eager", dtype=torch.float32
  )
  assert type(model).__name__ == "LlamaForCausalLM"
  return model


@needs_golden
def test_transformers_opens_the_merged_folder_and_says_the_golden_logits(tmp_path):
  model = merged_model(tmp_path, GOLDEN)
  with np.load(GOLDEN / "outputs.npz") as golden:
    x_BTD = torch.tensor(golden["splice/inputs_embeds"])
    mask_BT = golden["splice/attention_mask"]
  with np.load(GOLDEN / "lora_outputs.npz") as golden:
    want = golden["merged_logits"]
  with torch.no_grad():
    logits = model(inputs_embeds=x_BTD, attention_mask=torch.tensor(mask_BT)).logits
  reference.close(logits.numpy()[mask_BT], want[mask_BT])


def test_transformers_says_the_logits_of_our_decoder_with_its_adapters(tmp_path):
  folder = golden_folder.make(tmp_path / "golden", golden_folder.PUBLIC_SIZES)
  model = merged_model(tmp_path, folder.path)
  port = Port(folder)
  cfg, params = port.lora_params()
  x_BTD = np.random.default_rng(0).normal(size=(*port.rows.mask_BT.shape, 64))
  inputs = x_BTD.astype(np.float32), *port.llama_inputs(port.rows)
  hidden_BTD = run(port.llama(cfg), params["llm"], *inputs)
  want = run(port.llama(cfg), params["llm"], hidden_BTD, method="logits")
  mask_BT = port.rows.mask_BT
  with torch.no_grad():
    logits = model(
      inputs_embeds=torch.tensor(inputs[0]), attention_mask=torch.tensor(mask_BT)
    ).logits
  reference.close(logits.numpy()[mask_BT], want[mask_BT])


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Gemma"])
def test_a_model_of_transformers_comes_back_from_ours_as_it_was(kind, tmp_path):
  config = getattr(transformers, f"{kind}Config")(
    hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=6, vocab_size=50,
  )  # fmt: skip
  model = getattr(transformers, f"{kind}ForCausalLM")(config)
  reference.randomised(model, 0).save_pretrained(tmp_path / "theirs")
  llama = hf.llama_config(config.to_dict(), path="config.json")
  towers = checkpoints.towers(dataclasses.replace(checkpoints.CFG, llama=llama))
  checkpoints.write(tmp_path / "towers", towers, settings={})
  source = f"{tmp_path / 'theirs'},{tmp_path / 'towers'}"
  command.main([f"--src={source}", f"--dst={tmp_path / 'ours'}", "--from=auto,miras",
                "--tokenizer=none", *checkpoints.SET])  # fmt: skip
  command.main([f"--src={tmp_path / 'ours'}", f"--dst={tmp_path / 'hf'}", "--to=hf"])

  again = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "hf"))
  assert type(again) is type(model)
  want, found = reference.state_of(model), reference.state_of(again)
  assert found.keys() == want.keys()
  assert all(np.array_equal(found[key], want[key]) for key in want)
  ids = torch.arange(2, 11)[None]
  with torch.no_grad():
    np.testing.assert_array_equal(again(ids).logits, model.eval()(ids).logits)
