"""`miras bench decode`: its options and prompts; nothing is compiled or timed."""

import numpy as np
import pytest

from miras_jax.benchmarks import command as bench
from miras_jax.benchmarks import decode, prist, turns
from miras_jax.errors import UserError


@pytest.mark.parametrize(
  "option, message",
  [
    ("--rows=0", "--rows=0 must be at least 1"),
    ("--new=1", "--new=1 must be at least 2"),
    ("--sides=our", "no side 'our'; did you mean 'ours'"),
  ],
)
def test_a_wrong_option_is_one_line(option, message):
  with pytest.raises(UserError, match=message):
    bench.main(["decode", option])


def test_prompts_begin_with_every_image_token_and_have_no_padding():
  cfg = prist.model_config("tiny").model.build()
  batch = decode.prompts(cfg, rows=2, length=cfg.num_image_tokens + 10)
  slots = batch["image_slot"][1]
  assert list(slots[: cfg.num_image_tokens]) == list(range(cfg.num_image_tokens))
  assert (slots[cfg.num_image_tokens :] == -1).all()
  assert (batch["segments"] == 1).all()


def test_answers_that_take_no_time_are_called_noise(monkeypatch):
  clock = iter(range(100))
  monkeypatch.setattr(turns.time, "perf_counter", lambda: next(clock))
  args = decode.parse(["--rounds=1", "--new=4", "--sides=ours"])
  answers = {"ours": lambda new: np.zeros((1, new))}
  with pytest.raises(UserError, match="4 tokens were no slower than one"):
    decode._time(answers, args)
