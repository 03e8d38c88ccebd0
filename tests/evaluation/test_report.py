import html.parser
import json
import re

import numpy as np
from PIL import Image

from miras_jax import drawing
from miras_jax.evaluation import report

EVIL = '<script>alert(1)</script><img src="http://x.test/a.png"> " onload=\'x\' &lt;'


def metric(value):
  return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 7}


def result(**more):
  return {
    "metrics": {"ciou": metric(0.61), "giou": metric(0.5), "no_target_accuracy": NONE},
    "controls": {"last_turn_only": {"ciou": metric(0.2)}},
    "teacher_forced": {"ciou": metric(0.66)},
    "per_turn": {"4": {"ciou": metric(0.6), "giou": metric(0.5)}},
    "config": {"steps": 3},
    "data": {"split": "val"},
    "checkpoint": "runs/x",
  } | more


NONE = {"value": None, "low": None, "high": None, "n": 0}


def example(text="which cup?"):
  image = np.zeros((16, 24, 3), np.uint8)
  mask = np.ones((16, 24), np.uint8)
  panels = (drawing.Panel("image", image), drawing.Panel(text, image, (mask,)))
  return drawing.Example(text, ((text, text, text + "?"),), panels, caption=text)


class Tags(html.parser.HTMLParser):
  """Collects what a browser would act on."""

  def __init__(self):
    super().__init__()
    self.names, self.attributes, self.sources = set(), set(), []

  def handle_starttag(self, tag, attrs):
    self.names.add(tag)
    self.attributes |= {name for name, _ in attrs}
    self.sources += [value for name, value in attrs if name in ("src", "href")]


def size_of(path):
  with Image.open(path) as picture:
    return picture.size


def write_log(path, *lines):
  path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
  return path


def page(tmp_path, examples=(), log=None, **more):
  return report.write_report(tmp_path, result(**more), examples, log).read_text()


def test_page_shows_values_intervals_controls_and_examples(tmp_path):
  text = page(tmp_path, [example()])
  for expected in ("0.610", "0.510 to 0.710", "0.200", "0.660", "which cup?", "runs/x"):
    assert expected in text


def test_texts_of_data_and_model_are_escaped_everywhere(tmp_path):
  evil = result()
  evil |= {"checkpoint": EVIL, "data": {"split": EVIL}, "config": {EVIL: EVIL}}
  evil["metrics"][EVIL] = metric(0.1)
  evil["controls"][EVIL] = {"ciou": metric(0.1)}
  log = write_log(tmp_path / "log", {"step": 1, EVIL: 2.0})
  text = report.write_report(tmp_path, evil, [example(EVIL)], log).read_text()
  tags = Tags()
  tags.feed(text)
  assert "script" not in tags.names
  assert not [name for name in tags.attributes if name.startswith("on")]
  assert all(source.startswith("data:image/") for source in tags.sources)


def test_page_needs_nothing_from_outside(tmp_path):
  text = page(tmp_path, [example()])
  assert set(re.findall(r'(?:src|href)="([^:"]*:)', text)) == {"data:"}
  assert "http://" not in text and "https://" not in text
  assert "default-src 'none'" in text


def test_metric_without_value_is_a_dash(tmp_path):
  row = re.search(r"<tr><td[^>]*>no_target_accuracy.*?</tr>", page(tmp_path)).group()
  assert "–" in row and "None" not in row


def test_curves_and_overlays_are_pictures(tmp_path):
  log = write_log(
    tmp_path / "log", *({"step": i, "loss": 1 / (i + 1)} for i in range(9))
  )
  text = page(tmp_path, [example()], log)
  assert size_of(tmp_path / "curves.png")[0] > 100
  assert size_of(tmp_path / "overlays.png")[0] > 100
  assert "<h3>loss" in text


def test_half_a_line_of_a_killed_run_is_counted(tmp_path):
  log = write_log(tmp_path / "log", {"step": 1, "loss": 2.0}, '{"step": 2, "lo')
  curves, unread = report.read_curves(log)
  assert curves == {"loss": [(1, 2.0)]}
  assert unread == 1


def test_resumed_run_keeps_the_last_value_of_a_step(tmp_path):
  rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 1.0}]
  curves, _ = report.read_curves(write_log(tmp_path / "log", *rows))
  assert curves["loss"] == [(1, 2.0), (2, 1.0)]


def test_values_that_are_no_numbers_are_left_out(tmp_path):
  log = write_log(tmp_path / "log", '{"step": 1, "loss": NaN, "note": "x", "ok": true}')
  assert report.read_curves(log) == ({}, 0)


def test_report_without_training_log_has_no_curves(tmp_path):
  text = page(tmp_path, log=tmp_path / "absent.jsonl")
  assert "<h2>Training" not in text and not (tmp_path / "curves.png").exists()


def test_smoothing_does_not_lag():
  ramp = [(i, 2.0 * i) for i in range(100)]
  np.testing.assert_allclose(report.smooth(ramp), ramp)


def test_smoothing_damps_noise():
  noise = list(enumerate(np.random.default_rng(0).normal(size=400)))
  assert np.std(report.smooth(noise), axis=0)[1] < 0.5
