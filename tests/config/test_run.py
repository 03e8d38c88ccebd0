"""A RunConfig refuses what does not fit together."""

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
