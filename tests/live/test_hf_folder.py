"""A folder of `miras convert --to=hf` in transformers, adapters merged."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from miras_jax.convert import command
from tests.convert import golden_source
from tests.live import reference
from tests.live.reference import torch
from tests.shared_data import GOLDEN, needs_golden

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.torch, needs_golden]


def test_transformers_opens_the_merged_folder_and_says_the_golden_logits(tmp_path):
  fields = golden_source.write(tmp_path / "source")
  adapters = tmp_path / "lora"
  adapters.mkdir()
  lora = load_file(GOLDEN / "lora_adapter.safetensors")
  save_file(lora, adapters / "adapter_model.safetensors")
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
