"""Published checkpoints of random numbers and our folder of one."""

import shutil

import ml_dtypes
import pytest
from flax.traverse_util import unflatten_dict

from miras_jax.config.overrides import with_overrides
from miras_jax.convert.files import torch_write
from tests.convert import checkpoints
from tests.convert.checkpoints import CFG
from tests.convert.folders import convert


@pytest.fixture(scope="module")
def flat():
  return checkpoints.params(dtype=ml_dtypes.bfloat16)


@pytest.fixture(scope="module")
def published(tmp_path_factory, flat):
  """A MIRAS checkpoint in two files with its tokenizer."""
  folder = tmp_path_factory.mktemp("published") / "miras"
  checkpoints.write(folder, checkpoints.state_dict("miras", flat), shards=2)
  control = ("[SEG]", "<im_start>", "<im_end>", "<im_patch>", "[OBJ]")
  return checkpoints.tokenizer(folder, control=control, size=300)


@pytest.fixture(scope="module")
def ours(tmp_path_factory, published):
  folder = tmp_path_factory.mktemp("converted") / "ours"
  convert("--from=miras", f"--src={published}", f"--dst={folder}")
  return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory, flat):
  """Vicuna with 295 rows and no control token, CLIP as .bin, ConvNeXt, SAM as .pth."""
  root = tmp_path_factory.mktemp("parts")
  llm = checkpoints.state_dict("llama", flat)
  for key in ("model.embed_tokens.weight", "lm_head.weight"):
    llm[key] = llm[key][:295]
  cfg = with_overrides(CFG, {"llama.vocab_size": 295})
  checkpoints.write(root / "vicuna", llm, cfg=cfg, shards=2)
  checkpoints.tokenizer(root / "vicuna", size=295)
  towers = {"clip": ".bin", "convnext": ".safetensors"}
  for kind, suffix in towers.items():
    state = checkpoints.state_dict(kind, flat)
    checkpoints.write(root / kind, state, suffix=suffix, settings={})
  torch_write.save(root / "sam.pth", checkpoints.state_dict("sam", flat))
  return [root / "vicuna", root / "clip", root / "convnext", root / "sam.pth"]


@pytest.fixture
def run(tmp_path, ours, flat):
  """A folder of `miras train`, stopped after step 4."""
  import jax.numpy as jnp
  import optax

  from miras_jax.checkpoint import store
  from miras_jax.models import trees
  from miras_jax.training import step as train_step

  params = unflatten_dict({k: jnp.asarray(x) for k, x in flat.items()}, sep="/")
  trainable, frozen = trees.split_by_name(params, "lora_heads")
  state = train_step.create_state(trainable, frozen, optax.sgd(0.1), seed=0)
  folder = tmp_path / "run"
  with store.Checkpoints(folder, keep=1) as checkpoints:
    checkpoints.save_frozen(frozen)
    checkpoints.save(4, state, data_state={}, metrics={})
  shutil.copyfile(ours / "config.json", folder / "config.json")
  return folder
