"""The config for one's own photographs is the quickstart's model, looking finer."""

import pytest

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_masks_are_compared_at_the_resolution_they_are_made_at(size):
  config = RunConfig.from_config_dict(config_file.load(f"own:size={size}"))
  assert config.loss_resolution == 4 * config.model.build().sam_encoder.grid


def test_it_trains_what_the_quickstart_trains():
  own, quickstart = (
    RunConfig.from_config_dict(config_file.load(name))
    for name in ("own", "prist_quickstart")
  )
  assert own.optim == quickstart.optim and own.loss == quickstart.loss
  assert own.model.build().llama == quickstart.model.build().llama
