"""Odd steps are named with their records; too many end the run and leave a dump."""

import json

import pytest

from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.training import anomalies, meters


def numbers(loss=1.0, skipped=0.0):
  return {"loss": loss, "grad_norm": 1.0, "skipped": skipped}


@pytest.fixture
def judge(tmp_path):
  return anomalies.Watch(workdir.Workdir(tmp_path), max_skipped=3)


def test_a_spike_is_named_with_its_records(judge, caplog):
  for step in range(20):
    judge(step, numbers(), [step])
  assert not caplog.text
  judge(20, numbers(loss=101.0), [7, 9])
  assert "step 20: the loss 101" in caplog.text and "records [7, 9]" in caplog.text


def test_early_steps_have_nothing_to_be_compared_with(judge, caplog):
  for step, loss in enumerate([1.0, 500.0, 1.0]):
    judge(step, numbers(loss), [])
  assert not caplog.text


def test_steps_in_a_row_end_the_run_with_a_dump(judge, tmp_path):
  judge(1, numbers(), [1])
  for step in (2, 3):
    judge(step, numbers(float("nan"), 1.0), [step])
  with pytest.raises(UserError, match=r"3 steps in a row.*records \[4\].*abort_4.json"):
    judge(4, numbers(float("nan"), 1.0), [4])
  dump = json.loads((tmp_path / "abort_4.json").read_text())
  assert [row["records"] for row in dump["steps"]] == [[1], [2], [3], [4]]
  assert dump["steps"][-1]["numbers"]["loss"] == "nan"


def test_a_finite_step_between_starts_the_count_again(judge):
  for step in range(12):
    judge(step, numbers(skipped=float(step % 3 != 0)), [])
  assert judge.skipped == 2


@pytest.mark.parametrize("text", ["", "x", "3:", "0:2", "5:0", "1:2:3"])
def test_a_profile_that_cannot_be_read_is_one_line(text):
  with pytest.raises(UserError, match="want STEP:COUNT"):
    meters.parse_profile(text)


def test_a_profile_says_first_step_and_count():
  assert meters.parse_profile("100:5") == (100, 5)
  assert meters.parse_profile("7") == (7, 1)


def test_a_step_has_rates_and_the_wait_for_a_save(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(meters.time, "perf_counter", lambda: clock[0])
  gauge = meters.Meters(shares=2, flops=6e12)
  clock[0] = 10.0  # compiling
  gauge.begin()
  gauge.idle(4.0)
  clock[0] = 20.0
  row = gauge.step({"record": [1, 2, 3], "tokens": 50, "data_wait_s": 0.5})
  assert row["step_s"] == pytest.approx(10) and row["save_wait_s"] == 4
  assert row["examples_per_s"] == pytest.approx(0.6)
  assert row["tokens_per_s"] == pytest.approx(10)
  assert row["model_tflops_per_s"] == pytest.approx(0.6) and "mfu" not in row
