"""Options after the colon, fields after the dot: typed, and strict about names."""

import pytest

from configs import common
from miras_jax.config import file as config_file
from miras_jax.config import run as run_config
from miras_jax.errors import UserError


def test_options_take_the_type_of_their_default():
  options = common.parse(
    "size=small,n=3,rate=0.5,fast", size="", n=1, rate=0.1, fast=False
  )
  assert options == {"size": "small", "n": 3, "rate": 0.5, "fast": True}


def test_no_options_are_the_defaults():
  assert common.parse("", size="tiny") == {"size": "tiny"}


@pytest.mark.parametrize(
  "text, words", [("sise=a", "'sise'.*'size'"), ("n=many", "n='many'.*int")]
)
def test_a_wrong_option_is_one_line(text, words):
  with pytest.raises(UserError, match=words):
    common.parse(text, size="tiny", n=1)


def test_the_defaults_make_a_run_and_survive_json():
  config = run_config.RunConfig.from_config_dict(common.base_config())
  assert run_config.RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
  "path, text, value",
  [
    ("optim.lr", "1", 1.0),
    ("data.name_targets", "false", False),
    ("data.system", "7", "7"),
    ("loss.dice", "0.25", 0.25),
    ("model.overrides.sam_encoder.global_layers", "(0, 1)", (0, 1)),
  ],
)
def test_a_field_is_changed_in_its_own_type(path, text, value):
  config = common.base_config()
  config_file.override(config, path, text)
  found = config
  for name in path.split("."):
    found = found[name]
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  "path, text, words",
  [
    ("optm.lr", "1", "did you mean --config.optim.lr"),
    ("lr", "1", "did you mean --config.optim.lr"),
    ("optim", "1", "is a group"),
    ("steps.more", "1", "has no fields"),
    ("data.name_targets", "maybe", "bool"),
    ("batch_size", "8.5", "int"),
  ],
)
def test_a_wrong_field_is_one_line(path, text, words):
  with pytest.raises(UserError, match=words):
    config_file.override(common.base_config(), path, text)


def test_every_config_of_the_package_builds_a_run():
  names = [p.stem for p in config_file.installed_dir().glob("*.py")]
  configs = [n for n in names if n not in ("__init__", "common")]
  assert configs
  for name in configs:
    run_config.RunConfig.from_config_dict(config_file.load(name))


def test_fields_of_one_part_change_together_in_any_order():
  overrides = {"sam_encoder.depth": 1, "sam_encoder.global_layers": [0]}
  for items in (overrides.items(), reversed(overrides.items())):
    choice = run_config.ModelChoice(variant="tiny", overrides=dict(items))
    assert choice.build().sam_encoder.global_layers == (0,)
