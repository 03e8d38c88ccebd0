"""What a field says of itself is what is checked, listed and compared."""

import dataclasses

import pytest

from configs import common
from miras_jax.config import file as config_file
from miras_jax.config import run as run_config
from miras_jax.config.fields import check, setting
from miras_jax.config.settings import LossConfig, OptimConfig
from miras_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
  rate: float = setting(0.5, "how fast", least=0, below=1)
  side: int = setting(4, "how wide", above=0)
  form: str = setting("round", "how it looks", choices=("round", "square"))
  fast: bool = setting(False, "whether to hurry")

  def __post_init__(self):
    check(self, "toy.")


@pytest.mark.parametrize(
  "values, words",
  [
    ({"rate": -0.1}, "toy.rate=-0.1 must be at least 0 and less than 1"),
    ({"rate": 1.0}, "toy.rate=1.0 must be at least 0 and less than 1"),
    ({"rate": float("nan")}, "toy.rate=nan must be finite and at least 0"),
    ({"side": 0}, "toy.side=0 must be more than 0"),
    ({"side": 2.0}, "toy.side=2.0: want a value of type int"),
    ({"side": True}, "toy.side=True: want a value of type int"),
    ({"fast": 1}, "toy.fast=1: want a value of type bool"),
    ({"form": "flat"}, "unknown toy.form='flat'; there are round, square"),
  ],
)
def test_a_value_out_of_bounds_is_named(values, words):
  with pytest.raises(UserError, match=words):
    Toy(**values)


def test_a_whole_number_is_a_number():
  assert Toy(rate=0).rate == 0


@pytest.mark.parametrize(
  "values, words",
  [
    ({"clip_norm": -1.0}, "optim.clip_norm=-1.0 must be at least 0"),
    ({"b1": 1.0}, "optim.b1=1.0 must be at least 0 and less than 1"),
    ({"b2": -0.5}, "optim.b2=-0.5"),
    ({"weight_decay": -0.1}, "optim.weight_decay=-0.1 must be at least 0"),
  ],
)
def test_an_optimizer_that_climbs_is_refused(values, words):
  with pytest.raises(UserError, match=words):
    OptimConfig(**values)


def test_dice_does_not_divide_by_nothing():
  with pytest.raises(UserError, match="loss.dice_scale=0.0 must be more than 0"):
    LossConfig(dice_scale=0.0)


def test_every_option_of_a_run_says_what_it_is():
  lines = config_file.described().splitlines()
  for one, line in zip(run_config.settings(), lines, strict=True):
    assert line.startswith(f"--config.{one.option}")
    assert one.help and one.help in line
    assert all(choice in line for choice in one.choices)


def test_a_config_file_starts_from_every_field():
  options = {one.option for one in run_config.settings()}
  assert (
    set(config_file.fields(common.base_config())) == options - config_file.FREE.keys()
  )


def test_what_differs_is_named_as_the_option_that_changes_it():
  config = run_config.RunConfig()
  other = dataclasses.replace(config, loss_resolution=32)
  assert run_config.first_difference(config, other) == ("loss.loss_resolution", 64, 32)


@pytest.mark.parametrize(
  "changes",
  [
    {"steps": 2000},
    {"optim": OptimConfig(accumulation=4)},
    {"mesh": run_config.MeshConfig(fsdp=2)},
    {"model": run_config.ModelChoice(overrides={"llama.remat": "full"})},
  ],
)
def test_what_may_change_is_no_difference(changes):
  config = run_config.RunConfig()
  assert (
    run_config.first_difference(config, dataclasses.replace(config, **changes)) is None
  )
