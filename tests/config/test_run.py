"""A RunConfig refuses what does not fit together."""

import json

import pytest

from configs import common
from miras_jax.config import run as run_config
from miras_jax.errors import UserError


@pytest.mark.parametrize("head_dim, most", [(64, 62), (96, 158), (128, 126)])
def test_splash_attention_bounds_the_conversations_of_a_row(head_dim, most):
  def make(pack, attention):
    c = common.base_config()
    c.model.overrides = {"llama": {"head_dim": head_dim, "attention": attention}}
    c.data.pack = pack
    return run_config.RunConfig.from_config_dict(c)

  make(most, "splash")
  make(most + 1, "xla")
  with pytest.raises(UserError, match=f"pack={most + 1}: .* tells {most} .*xla"):
    make(most + 1, "splash")


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"data.in_memory": True}, "data.in_memory=True keeps .*data.in_memory=False"),
    ({"data.cache": "kept"}, "data.cache=kept keeps .*--config.data.cache= or leave"),
    ({"augment.flip": 1.5}, "augment.flip=1.5 must be at most 1"),
    ({"augment.crop_share": 0.0}, "augment.crop_share=0.0 must be more than 0"),
  ],
)
def test_what_is_prepared_once_is_not_augmented(changes, words):
  def make(**more):
    c = common.base_config()
    c.update_from_flattened_dict(more)
    return run_config.RunConfig.from_config_dict(c)

  assert not make().augment.is_on() and make(**{"augment.flip": 0.5}).augment.is_on()
  with pytest.raises(UserError, match=words):
    make(**{"augment.flip": 0.5} | changes)


@pytest.mark.parametrize(
  "change, says",
  [
    ({"format": 99}, "no field format is known; was it written by another version"),
    ({"model": {"colour": 1}}, "no field model.colour is known"),
    ({"model": 5}, "model must hold fields, not a value of type int"),
  ],
)
def test_a_run_of_another_version_says_what_is_not_known(change, says):
  plain = (
    json.loads(run_config.RunConfig.from_config_dict(common.base_config()).to_json())
    | change
  )
  with pytest.raises(ValueError, match=says):
    run_config.RunConfig.from_json(json.dumps(plain))


def test_a_run_without_its_model_is_no_run():
  """The defaults would be those of another model, whose weights do not fit."""
  plain = json.loads(run_config.RunConfig().to_json())
  del plain["model"]
  with pytest.raises(ValueError, match="no field 'model'"):
    run_config.RunConfig.from_json(json.dumps(plain))
