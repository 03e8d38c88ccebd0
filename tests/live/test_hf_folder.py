"""Folders of transformers read by us, and those of `--to=hf` read by transformers."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miras_jax.convert import command, hf
from tests.convert import checkpoints, golden_source
from tests.live import reference
from tests.live.reference import torch
from tests.shared_data import GOLDEN, needs_golden

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch


@needs_golden
def test_transformers_opens_the_merged_folder_and_says_the_golden_logits(tmp_path):
  fields = golden_source.write(tmp_path / "source")
  adapters = tmp_path / "lora"
  adapters.mkdir()
  lora = load_file(GOLDEN / "lora_adapter.safetensors")
  save_file(lora, adapters / "adapter_model.safetensors")
  (adapters / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 16}')
  source = f"--src={tmp_path / 'source'},{adapters}"
  command.main([source, f"--dst={tmp_path / 'hf'}", "--to=hf", *fields])
  model = transformers.AutoModelForCausalLM.from_pretrained(
    str(tmp_path / "hf"), attn_implementation="eager", dtype=torch.float32
  )
  assert type(model).__name__ == "LlamaForCausalLM"
  with np.load(GOLDEN / "outputs.npz") as golden:
    x_BTD = torch.tensor(golden["splice/inputs_embeds"])
    mask_BT = golden["splice/attention_mask"]
  with np.load(GOLDEN / "lora_outputs.npz") as golden:
    want = golden["merged_logits"]
  with torch.no_grad():
    logits = model(inputs_embeds=x_BTD, attention_mask=torch.tensor(mask_BT)).logits
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
