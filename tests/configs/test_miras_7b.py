"""The published two stages: their numbers, at every size, in both files."""

import pytest

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.config.variants import VARIANTS
from miras_jax.errors import UserError

STAGES = ("miras_7b_stage1", "miras_7b_stage2")


def run(name, options=""):
  return RunConfig.from_config_dict(config_file.load(f"{name}:{options}"))


@pytest.mark.parametrize("size", VARIANTS)
@pytest.mark.parametrize("stage", STAGES)
def test_each_size_of_each_stage_has_the_published_adapter(stage, size):
  config = run(stage, f"size={size}")
  llama = config.model.build().llama
  assert (llama.lora_rank, llama.lora_alpha, llama.lora_dropout) == (8, 16, 0.05)
  assert llama.lora_targets == ("q_proj", "v_proj")
  assert config.trainable.split("+")[0] == "lora_heads"
  assert config.model.build().sam_encoder.image_size % config.loss_resolution == 0


@pytest.mark.parametrize("stage", STAGES)
def test_the_optimizer_is_the_published_one(stage):
  optim = run(stage).optim
  assert (optim.name, optim.lr, optim.b1, optim.b2) == ("adamw", 3e-4, 0.9, 0.95)
  assert (optim.weight_decay, optim.clip_norm, optim.warmup_steps) == (0, 1, 100)
  assert run(stage).batch_size == 8 * optim.accumulation == 80


def test_the_stages_differ_in_length_and_losses():
  one, two = map(run, STAGES)
  assert (one.steps, two.steps) == (5_000, 25_000)
  assert (one.loss.mask_bce, one.loss.focal) == (2.0, 0.0)
  assert (two.loss.mask_bce, two.loss.focal, two.loss.boundary) == (0.0, 1.0, 0.5)


def test_full_sizes_are_rematerialised_half_precision():
  config = run("miras_7b_stage2", "attention=xla")
  llama = config.model.build().llama
  assert config.model.dtype == "bfloat16"
  assert (llama.remat, llama.attention) == ("full", "xla")


def test_an_unknown_size_is_one_line():
  with pytest.raises(UserError, match="size='8b': there are tiny, small, 1b, 7b"):
    run("miras_7b_stage2", "size=8b")
