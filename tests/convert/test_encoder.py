"""Published parts as a model with fewer encoders."""

import logging

import numpy as np
import pytest

from miras_jax.convert import folder as converted
from miras_jax.errors import UserError
from tests.convert.folders import config_of, convert, union

NEW = {"shared": "mining,projector,seg_prompt", "sam_only": "projector,seg_prompt"}


@pytest.fixture(autouse=True)
def records_reach_caplog(monkeypatch):
  monkeypatch.setattr(logging.getLogger("miras_jax"), "propagate", True)


@pytest.mark.parametrize("encoder", NEW)
def test_published_parts_become_a_model_without_the_others(
  parts, tmp_path, caplog, encoder
):
  caplog.set_level("INFO")
  convert(union(parts), f"--dst={tmp_path / 'out'}", f"--set=encoder={encoder}",
          f"--new={NEW[encoder]}")  # fmt: skip
  params, _ = converted.load_params(tmp_path / "out")
  assert config_of(tmp_path / "out").encoder == encoder
  assert ("clip" in params, "mining" in params) == (encoder == "shared",) * 2
  assert "convnext" not in params and "sam" in params
  assert f"tensors of convnext are left out, encoder='{encoder}'" in caplog.text


def test_a_published_model_keeps_what_still_fits(published, flat, tmp_path):
  options = ("--from=miras", f"--src={published}", "--set=encoder=shared")
  with pytest.raises(UserError, match="mining from random values: --new=mining"):
    convert(*options, f"--dst={tmp_path / 'out'}")
  convert(*options, "--new=mining", f"--dst={tmp_path / 'out'}")
  params, _ = converted.load_params(tmp_path / "out")
  name = "projector/fc1/kernel"
  np.testing.assert_array_equal(params["projector"]["fc1"]["kernel"], flat[name])
  # What mining adds starts at nothing, so that the decoder sees what it was trained on.
  assert not np.any(params["mining"]["value_proj"]["kernel"])


def test_the_published_format_has_no_such_model(published, tmp_path):
  with pytest.raises(UserError, match="--to=miras: the published code has no model"):
    convert("--from=miras", f"--src={published}", "--set=encoder=shared",
            "--new=mining", f"--dst={tmp_path / 'out'}", "--to=miras")  # fmt: skip
