"""`miras bench prist`: its options and batches; nothing is compiled or timed."""

import importlib

import numpy as np
import pytest

from miras_jax.benchmarks import command as bench
from miras_jax.benchmarks import prist
from miras_jax.errors import UserError


@pytest.mark.parametrize(
  "option, message",
  [
    ("--images=0", "--images=0 must be at least 1"),
    ("--talk=2", "--talk=2: a conversation has at least 8 tokens"),
    ("--size=huge", "invalid choice: 'huge'"),
    ("--round=1", "did you mean '--rounds'"),
    ("--sides=published,cache", "no side 'cache'; did you mean 'cached'"),
  ],
)
def test_a_wrong_option_is_one_line(option, message):
  with pytest.raises(UserError, match=message):
    bench.main(["prist", option])


def test_without_torch_it_says_what_to_install(monkeypatch):
  real = importlib.import_module

  def without_torch(name):
    if name.endswith("torch_side"):
      raise ModuleNotFoundError("No module named 'torch'", name="torch")
    return real(name)

  monkeypatch.setattr(importlib, "import_module", without_torch)
  with pytest.raises(UserError, match="torch is missing: pip install torch==2.13.0"):
    bench.main(["prist", "--size=tiny"])


def test_a_field_of_the_command_line_wins_over_the_size():
  fields = [("model.overrides.llama.depth", "3")]
  cfg = prist.model_config("small", fields).model.build()
  assert (cfg.llama.depth, cfg.llama.width, cfg.llama.lora_rank) == (3, 256, 8)


def test_all_forms_hold_the_same_conversations():
  args = prist.parse(["--size=tiny", "--images=1", "--talk=10"])
  alone, packed = (prist._config(args, packed=p) for p in (False, True))
  batches = [
    prist.our_batch(args, alone, cached=False),
    prist.our_batch(args, packed, cached=False),
    prist.our_batch(args, packed, cached=True),
  ]
  assert {b["loss_mask"].sum() for b in batches} == {args.talks * 5}
  assert {b["seg_valid"].sum() for b in batches} == {args.talks}
  assert "image_sam" not in batches[2] and "image_aux" not in batches[2]
  row = batches[1]["segments"][0]
  assert [np.sum(row == k) for k in (2, 3, 4)] == [10, 10, 10]
  labels = prist.torch_batch(args, alone)["labels"]
  assert (labels != -100).sum() == args.talks * 5
