"""The numbers of a run in its log."""

import json

from miras_jax.checkpoint import workdir
from miras_jax.training.metrics_log import MetricsLog


def test_numbers_that_are_not_finite_are_null_in_valid_json(tmp_path):
  folder = workdir.Workdir(tmp_path)
  with MetricsLog(folder, start_step=0, total=1, board_every=10) as written:
    written.write(1, {"loss": float("nan"), "examples_per_s": 1.0})
  text = folder.metrics.read_text()
  assert json.loads(text, parse_constant=None) == {
    "step": 1, "loss": None, "examples_per_s": 1.0
  }  # fmt: skip
