"""Parts that `miras convert --new=...` adds are trained, or refused by name."""

import dataclasses

import pytest

from configs import common
from miras_jax.config import file as config_file
from miras_jax.config.run import ModelChoice, RunConfig
from miras_jax.errors import UserError
from miras_jax.models import trees
from miras_jax.training import init_from

PATHS = ["llm/embed/embedding", "mining/value_proj/kernel", "projector/fc1/kernel"]


def config(trainable, **changes):
  c = common.base_config()
  c.update(changes | {"trainable": trainable, "init_from": "converted"})
  return RunConfig.from_config_dict(c)


@pytest.mark.parametrize("suffix", ["mining", "projector"])
def test_a_suffix_trains_the_part_of_its_name(suffix):
  without = trees.patterns_for("paper", PATHS)
  assert trees.patterns_for(f"paper+{suffix}", PATHS) == (*without, f"^{suffix}/")


@pytest.mark.parametrize(
  "trainable, new, written",
  [
    ("lora_heads+new", {"mining", "projector"}, "lora_heads+mining+projector"),
    ("lora_heads+new", {"seg_prompt"}, "lora_heads"),
    ("lora_heads+new+mining", {"mining"}, "lora_heads+mining"),
    ("lora_heads+mining", {"mining"}, "lora_heads+mining"),
    ("full", {"mining"}, "full"),
  ],
)
def test_a_run_writes_out_which_new_parts_it_trains(trainable, new, written):
  assert init_from._trainable(config(trainable), new) == written


def test_a_new_part_that_stays_frozen_is_refused():
  with pytest.raises(UserError, match="random numbers.*trainable=lora_heads.mining"):
    init_from._trainable(config("lora_heads"), {"mining", "seg_prompt"})
  allowed = config("lora_heads", allow_random=True)
  assert init_from._trainable(allowed, {"mining"}) == "lora_heads"


def test_a_run_that_goes_on_trains_what_it_trained():
  saved = config("lora_heads+mining")
  again = init_from.resumed(config("lora_heads+new"), saved)
  assert again.trainable == "lora_heads+mining"
  other = dataclasses.replace(saved, trainable="paper")
  assert init_from.resumed(other, saved).trainable == "paper"


@pytest.mark.parametrize(
  "ours, theirs, remedy",
  [
    ("dual", "shared", "say --config.model.encoder=shared$"),
    ("shared", "dual", "--set=encoder=shared --new=mining$"),
    ("sam_only", "dual", "--set=encoder=sam_only --new=projector$"),
  ],
)
def test_weights_of_another_encoder_are_refused(ours, theirs, remedy):
  saved, model = ModelChoice(encoder=theirs), ModelChoice(encoder=ours)
  with pytest.raises(UserError, match=f"holds '{theirs}'.*{remedy}"):
    init_from._model(model, saved, "converted")


def test_a_run_has_the_encoder_of_its_weights():
  model = ModelChoice(encoder="shared")
  assert init_from._model(model, model, "converted").encoder == "shared"


def test_stage_one_trains_what_was_added():
  assert config_file.read("miras_7b_stage1:size=tiny").trainable == "lora_heads+new"
