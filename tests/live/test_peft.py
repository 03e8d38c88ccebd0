"""Adapters in PEFT's format: PEFT's own read by us, ours read by PEFT, and merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.convert import command
from miras_jax.convert.folder import FolderTree, load_params
from miras_jax.errors import UserError
from miras_jax.models.attention import segment_mask
from miras_jax.models.llama import Llama
from tests.convert import checkpoints
from tests.convert.checkpoints import CFG, SET
from tests.live import reference
from tests.live.reference import torch

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="needs pip install --no-deps peft accelerate")
pytestmark = pytest.mark.torch

CONTROL = ("[SEG]", "<im_start>", "<im_end>", "<im_patch>", "[OBJ]")
B, T = 2, 12
VOCAB = CFG.llama.vocab_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """`whole`: a MIRAS checkpoint; `base`: its language model for transformers."""
  made = tmp_path_factory.mktemp("peft")
  flat = {path: 0.15 * x for path, x in checkpoints.params().items()}
  state = checkpoints.state_dict("miras", flat)
  checkpoints.write(made / "whole", state)
  checkpoints.tokenizer(made / "whole", control=CONTROL, size=VOCAB)
  names = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
  language = {k: x for k, x in state.items() if k.startswith(names)}
  checkpoints.write(made / "base", language)
  return made


def open_llama(path):
  options = {"attn_implementation": "eager", "dtype": torch.float32}
  return transformers.AutoModelForCausalLM.from_pretrained(str(path), **options).eval()


def save_adapter(base, path, **options):
  """PEFT's folder of adapters of which none is zero; returns the adapted model."""
  config = peft.LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, **options)
  model = peft.get_peft_model(open_llama(base), config)
  generator = torch.Generator().manual_seed(1)
  with torch.no_grad():
    for name, x in model.named_parameters():
      if "lora_" in name:
        x.copy_(0.3 * torch.randn(x.shape, generator=generator))
  model.save_pretrained(str(path))
  return model.eval()


def convert(*args):
  return command.main([*map(str, args), *SET])


def their_logits(model, ids):
  with torch.no_grad():
    return model(torch.tensor(ids)).logits.numpy()


def our_logits(path, ids):
  """Logits of the decoder in a folder of `miras convert`."""
  with FolderTree(path) as tree:
    model = Llama(tree.config.model.build().llama)

  @jax.jit
  def run(params, ids):
    variables = {"params": params}
    x_BTD = model.apply(variables, ids, method="embed")
    positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
    mask_BTT = segment_mask(jnp.ones((B, T), jnp.int32))
    hidden_BTD = model.apply(variables, x_BTD, positions_BT, mask_BTT)
    return model.apply(variables, hidden_BTD, method="logits")

  return run(load_params(path)[0]["llm"], ids)


@pytest.mark.parametrize("use_rslora", [False, True], ids=["lora", "rslora"])
def test_adapters_go_from_peft_to_us_and_back(folder, tmp_path, use_rslora):
  targets = ["q_proj", "v_proj", "down_proj"]
  model = save_adapter(
    folder / "base", tmp_path / "theirs", use_rslora=use_rslora, target_modules=targets
  )
  ids = np.random.default_rng(0).integers(3, VOCAB, (B, T))
  want = their_logits(model, ids)
  convert(f"--src={folder / 'whole'},{tmp_path / 'theirs'}", f"--dst={tmp_path / 'in'}")
  reference.close(our_logits(tmp_path / "in", ids), want)

  for kind in ("peft", "hf"):
    convert(f"--src={tmp_path / 'in'}", f"--dst={tmp_path / kind}", f"--to={kind}")
  base = open_llama(folder / "base")
  assert np.abs(their_logits(base, ids) - want).max() > 0.1  # the adapters do something
  adapted = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft")).eval()
  reference.close(their_logits(adapted, ids), want)
  reference.close(their_logits(open_llama(tmp_path / "hf"), ids), want)


def test_a_scale_for_each_projection_is_an_error(folder, tmp_path):
  save_adapter(
    folder / "base", tmp_path / "theirs", alpha_pattern={"v_proj": 2},
    target_modules=["q_proj", "v_proj"],
  )  # fmt: skip
  source = f"--src={folder / 'whole'},{tmp_path / 'theirs'}"
  with pytest.raises(UserError, match=r"adapter_config.json: alpha_pattern .*v_proj"):
    convert(source, f"--dst={tmp_path / 'x'}")
