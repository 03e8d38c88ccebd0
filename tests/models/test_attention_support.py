"""Attention that these devices lack is refused before anything is loaded."""

import dataclasses
import logging

import jax
import pytest

from miras_jax.config.run import ModelChoice
from miras_jax.config.variants import VARIANTS
from miras_jax.errors import UserError
from miras_jax.inference import load
from miras_jax.models import attention_support
from miras_jax.models.attention import attention_for


def llama(attention):
  return dataclasses.replace(VARIANTS["tiny"].llama, attention=attention)


@pytest.mark.parametrize(
  "attention, platform, remedy",
  [("splash", "gpu", "cudnn"), ("cudnn", "tpu", "splash"), ("cudnn", "cpu", "xla")],
)
def test_the_error_names_what_these_devices_have(attention, platform, remedy):
  with pytest.raises(UserError, match=f"{platform.upper()}; set .*attention={remedy}$"):
    attention_support.check(llama(attention), 1, platform)


def test_splash_on_a_cpu_runs_with_a_warning(caplog):
  with caplog.at_level(logging.WARNING):
    attention_support.check(llama("splash"), 1, "cpu")
  assert "interpreted, which is slow" in caplog.text


@pytest.mark.parametrize("attention", ["xla", "blocked", "jax"])
def test_plain_attention_is_at_home_everywhere(attention):
  assert {attention_for(attention, p) for p in ("cpu", "gpu", "tpu")} == {attention}


def test_cudnn_in_float32_is_refused_before_it_is_compiled():
  with pytest.raises(UserError, match="half precision, model.dtype=float32; set --con"):
    attention_support.check(llama("cudnn"), 1, "gpu", "float32")
  attention_support.check(llama("cudnn"), 1, "gpu", "bfloat16")


@pytest.mark.parametrize(
  "platform, dtype, found",
  [("cpu", "bfloat16", "xla"), ("gpu", "float32", "xla"), ("gpu", "bfloat16", "cudnn")],
)
def test_a_model_trained_with_cudnn_is_read_elsewhere(
  monkeypatch, platform, dtype, found
):
  monkeypatch.setattr(jax, "default_backend", lambda: platform)
  overrides = {"llama.attention": "cudnn"}
  choice = ModelChoice(variant="tiny", dtype=dtype, overrides=overrides)
  assert load._for_here(choice).llama.attention == found
