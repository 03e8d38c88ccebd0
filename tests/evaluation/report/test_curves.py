import json

import numpy as np

from miras_jax.evaluation.report import curves


def write_log(path, *lines):
  path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
  return path


def test_half_a_line_of_a_killed_run_is_counted(tmp_path):
  log = write_log(tmp_path / "log", {"step": 1, "loss": 2.0}, '{"step": 2, "lo')
  found, unread = curves.read_curves(log)
  assert found == {"loss": [(1, 2.0)]}
  assert unread == 1


def test_resumed_run_keeps_the_last_value_of_a_step(tmp_path):
  rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 1.0}]
  found, _ = curves.read_curves(write_log(tmp_path / "log", *rows))
  assert found["loss"] == [(1, 2.0), (2, 1.0)]


def test_values_that_are_no_numbers_are_left_out(tmp_path):
  log = write_log(tmp_path / "log", '{"step": 1, "loss": NaN, "note": "x", "ok": true}')
  assert curves.read_curves(log) == ({}, 0)


def test_training_and_held_out_values_of_a_quantity_share_a_chart():
  both = {"loss": [(1, 2.0), (2, 1.0)], "probe_loss": [(2, 1.5)]}
  text = curves.render(both, 0)
  assert text.count("<h3>") == 1
  assert "training" in text and "held out 1.5" in text


def test_what_matters_first_is_not_folded(tmp_path):
  row = {"step": 1, "apples": 1.0, "probe_ciou": 0.5, "loss": 2.0, "dice": 0.1}
  found, _ = curves.read_curves(write_log(tmp_path / "log", row))
  first, folded = curves.render(found, 0).split("<details")
  assert first.index("<h3>loss") < first.index("<h3>ciou") < first.index("<h3>dice")
  assert "apples" not in first and "apples" in folded


def test_curve_of_extreme_values_is_drawn():
  extremes = {"loss": [(1, 1e-300), (2**53, 9e99)], "x": [(0, -9e99), (1, 9e99)]}
  assert "nan" not in curves.render(extremes, 0)


def test_smoothing_does_not_lag():
  ramp = [(i, 2.0 * i) for i in range(100)]
  np.testing.assert_allclose(curves.smooth(ramp), ramp)


def test_smoothing_damps_noise():
  noise = list(enumerate(np.random.default_rng(0).normal(size=400)))
  assert np.std(curves.smooth(noise), axis=0)[1] < 0.5


def test_stages_are_named_and_marked_where_they_begin(tmp_path):
  rows = [{"step": k, "loss": 1.0 / k, "stage": "parts"} for k in (1, 2)]
  rows += [{"step": k, "loss": 1.0 / k, "stage": "<b>"} for k in (3, 4)]
  log = write_log(tmp_path / "log", *rows)
  found, stages = curves.read_curves(log)[0], curves.read_stages(log)
  assert [tuple(mark) for mark in stages] == [(1, "parts"), (3, "<b>")]
  text = curves.render(found, 0, stages)
  assert "parts from step 1, &lt;b&gt; from step 3" in text and "<b>" not in text
  assert text.count('class="mark"') == 1


def test_a_run_of_one_stage_has_no_marks(tmp_path):
  log = write_log(tmp_path / "log", {"step": 1, "loss": 1.0})
  assert curves.read_stages(log) == []
