import html.parser
import json
import re

import numpy as np
from PIL import Image

from miras_jax.evaluation import report
from tests.evaluation.report.cases import (
  box,
  example,
  line,
  metric,
  result,
  target,
  write,
)

EVIL = '<script>alert(1)</script><img src="http://x.test/a.png"> " onload=\'x\' &lt;'


class Tags(html.parser.HTMLParser):
  """Collects what a browser would act on, and each picture's name."""

  def __init__(self):
    super().__init__()
    self.names, self.attributes, self.sources, self.nameless = set(), set(), [], []
    self.ids = []

  def handle_starttag(self, tag, attrs):
    found = dict(attrs)
    self.names.add(tag)
    self.attributes |= found.keys()
    self.sources += [value for name, value in attrs if name in ("src", "href")]
    self.ids += [found["id"]] if "id" in found else []
    if tag == "svg" and "aria-hidden" not in found and not found.get("aria-label"):
      self.nameless.append(attrs)


def tags_of(text):
  tags = Tags()
  tags.feed(text)
  return tags


def size_of(path):
  with Image.open(path) as picture:
    return picture.size


def write_log(path, *lines):
  path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
  return path


def test_page_shows_values_intervals_controls_and_examples(tmp_path):
  text = write(tmp_path, [line(0)])
  for expected in ("0.610", "0.510 to 0.710", "0.200", "0.660", "which cup?", "runs/x"):
    assert expected in text


def test_control_with_an_interval_below_the_models_is_a_fall(tmp_path):
  text = write(tmp_path)
  assert "cIoU falls by 0.410" in text and "no clear fall" not in text


def test_control_whose_interval_meets_the_models_is_no_clear_fall(tmp_path):
  text = write(tmp_path, controls={"swapped_image": {"ciou": metric(0.5)}})
  assert "no clear fall of cIoU (-0.110)" in text


def test_fall_of_the_same_targets_is_what_counts_where_it_is_known(tmp_path):
  change = {"value": -0.2, "low": -0.3, "high": -0.1, "n": 9}
  text = write(
    tmp_path,
    controls={"swapped_image": {"ciou": metric(0.5)}},
    dependence={"swapped_image": {"change": change}},
  )
  assert "mean IoU falls by 0.200" in text


def test_control_that_has_no_ciou_is_left_out_of_the_bars(tmp_path):
  text = write(tmp_path, controls={"absent": {"n_acc": metric(0.5)}})
  assert 'id="depends"' in text and ">absent<" not in text


def test_what_its_own_answers_cost_is_told_by_turn(tmp_path):
  gap = {"gold": metric(0.55), "own": metric(0.4), "gap": metric(0.15)}
  text = write(tmp_path, history_gap={"3": gap})
  assert "turn 3, gold answers" in text and "0.150 less" in text


def test_masks_on_the_way_stand_beside_those_that_are_due(tmp_path):
  turns = {"2": {"model": metric(0.33), "gold": metric(0.46)}}
  text = write(tmp_path, intent_drift={"turns": turns})
  assert text.index("turn 2, due") < text.index("0.460") < text.index("0.330")


def test_a_turn_in_which_the_model_made_no_mask_shows_what_was_due(tmp_path):
  text = write(tmp_path, intent_drift={"turns": {"2": {"gold": metric(0.46)}}})
  assert "turn 2, due" in text and "turn 2, the model" not in text


def test_predicted_iou_is_held_against_the_actual_one(tmp_path):
  full = {"low": 0.2, "high": 0.3, "n": 5, "predicted": 0.25, "iou": 0.618}
  bare = {"low": 0.3, "high": 0.4, "n": 0, "predicted": None, "iou": None}
  text = write(tmp_path, calibration={"bins": [full, bare]})
  assert "predicted 0.2 to 0.3" in text and "0.618" in text
  assert 'class="whisker" d="M35.71 0V10"' in text  # 0.25 on a scale that ends at 0.7
  assert "predicted 0.3 to 0.4" not in text


def test_the_time_of_the_training_is_told_by_cause(tmp_path):
  log = write_log(tmp_path / "log", {"step": 1, "loss": 2.0})
  life = {"began": 0, "until": 80, "step": 1, "seconds": {"step": 60, "compile": 20}}
  log.with_name("goodput.jsonl").write_text(json.dumps(life) + "\n")
  text = write(tmp_path, [], log)
  assert "Shares of 1 min 20 s in 1 start" in text
  assert text.index("0.750") < text.index("XLA: 20.0 s")


def test_masks_of_prist_x_have_bars_by_edit_and_by_what_they_are_of(tmp_path):
  scores = {"ciou": metric(0.4), "giou": metric(0.37)}
  text = write(tmp_path, kinds={"edit": {"remove": scores}, "of": {"none": scores}})
  assert "a piece of it, without others; 7 targets" in text
  assert "what is not there; 7 targets" in text


def test_texts_of_data_and_model_are_escaped_everywhere(tmp_path):
  evil = {"checkpoint": EVIL, "data": {"split": EVIL, "dir": EVIL, EVIL: EVIL}}
  evil |= {
    "config": {EVIL: EVIL},
    "provenance": {"commit": EVIL, "versions": {EVIL: 1}},
  }
  evil["metrics"] = result()["metrics"] | {EVIL: metric(0.1)}
  evil["controls"] = {EVIL: {"ciou": metric(0.1)}}
  evil["per_turn"] = {EVIL: result()["per_turn"]["4"]}
  two = {"model": metric(0.1), "own": metric(0.1), "gold": metric(0.2)}
  evil["kinds"] = {"edit": {EVIL: evil["per_turn"][EVIL]}, EVIL: {}}
  evil["history_gap"] = {EVIL: two | {"gap": metric(0.1)}}
  evil["intent_drift"] = {"turns": {EVIL: two}}
  log = write_log(tmp_path / "log", {"step": 1, EVIL: 2.0})
  wrong = target(box(20, 30), box(0, 10), EVIL)
  other = target(box(20, 30), box(20, 30), EVIL)
  lines = [line(n, wrong, other, text=EVIL, image=EVIL, id=EVIL) for n in range(2)]
  tags = tags_of(write(tmp_path, lines, log, **evil))
  assert "script" not in tags.names and "img" not in tags.names
  assert not [name for name in tags.attributes if name.startswith("on")]
  assert all(s.startswith(("data:image/", "#", "pred")) for s in tags.sources)


def test_page_needs_nothing_from_outside(tmp_path):
  text = write(tmp_path, [line(0)])
  assert set(re.findall(r'(?:src|href)="([^":#]*:)', text)) == {"data:"}
  assert "http://" not in text and "https://" not in text
  assert "default-src 'none'" in text


def test_every_link_leads_somewhere(tmp_path):
  lines = [line(0), line(1, target(box(20, 30), box(0, 10)))]
  log = write_log(tmp_path / "log", {"step": 1, "loss": 2.0})
  tags = tags_of(write(tmp_path, lines, log))
  inner = {source[1:] for source in tags.sources if source.startswith("#")}
  assert {"line1", "line2", "wrong-object", "photo0"} <= inner
  assert inner <= set(tags.ids)
  assert len(tags.ids) == len(set(tags.ids))


def test_link_without_a_section_is_not_offered(tmp_path):
  tags = tags_of(write(tmp_path, count=0, controls={}))
  inner = {source[1:] for source in tags.sources if source.startswith("#")}
  assert inner == {"metrics", "provenance", "turns"}


def test_every_picture_says_what_it_shows(tmp_path):
  log = write_log(tmp_path / "log", {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0})
  text = write(tmp_path, [line(0)], log)
  assert not tags_of(text).nameless
  assert 'aria-label="Turn 1: cup, IoU 0.80"' in text


def test_each_turn_with_a_mask_has_its_picture(tmp_path):
  shown = line(
    0, target(box(0, 8), box(0, 8)), target(box(8, 9), box(8, 9), turn=2), turns=3
  )
  text = write(tmp_path, [shown])
  assert "Turn 1: cup" in text and "Turn 3: cup" in text and "Turn 2" not in text


def test_mask_that_was_not_due_is_drawn_where_the_line_keeps_it(tmp_path):
  shown = line(0, turns=2, turn_masks=[{"turn": 1, "index": 0, "mask": box(20, 30)}])
  assert "Turn 2: a mask that was not due" in write(tmp_path, [shown])


def test_photograph_is_embedded_once_whatever_shows_it(tmp_path):
  wrong = line(0, target(box(20, 30), box(0, 10)))  # a card and a failure
  text = write(tmp_path, [wrong])
  assert text.count("data:image/jpeg") == 1
  assert text.count('href="#photo0"') == 3  # with the control


def test_lines_without_target_masks_are_counted_and_not_grouped(tmp_path):
  bare = line(0)
  del bare["targets"][0]["true"]
  text = write(tmp_path, [bare, line(1)], draw=lambda i: None)
  assert "which 1 line of 2 do not have" in text


def test_example_that_cannot_be_drawn_is_named_and_the_rest_is_there(tmp_path, capsys):
  def draw(i):
    raise ValueError("no picture")

  text = write(tmp_path, [line(0)], draw=draw)
  assert "val/0: not drawn: no picture" in capsys.readouterr().err
  assert "0.610" in text and 'id="line1"' in text


def test_what_was_left_out_is_said_at_the_top(tmp_path):
  text = write(tmp_path, data={"split": "val", "failed": ["a: x", "b: y"]})
  assert "2 left out, since they could not be scored." in text


def test_provenance_is_on_the_page(tmp_path):
  made = {"date": "2026-01-02", "commit": "abc123", "versions": {"jax": "1.2"}}
  text = write(tmp_path, step=300, provenance=made | {"device": "8 TPU", "seed": 5})
  for expected in ("2026-01-02", "abc123", "jax 1.2", "8 TPU", "<dd>5</dd>", "300"):
    assert expected in text


def test_metric_without_value_is_a_dash(tmp_path):
  row = re.search(r"<tr><td[^>]*><code>no_target_accuracy.*?</tr>", write(tmp_path))
  assert "–" in row.group() and "None" not in row.group()


def test_noisy_photographs_leave_the_page_small(tmp_path):
  """300 conversations about photographs that no JPEG makes small."""
  rng = np.random.default_rng(0)
  lines = [line(i, target(box(i % 25, 31), box(0, 10))) for i in range(300)]

  def draw(i):
    noise = rng.integers(0, 256, (600, 800, 3), np.uint8)
    return example(lines[i], noise)

  text = write(tmp_path, lines, draw=draw, count=32)
  assert text.count("data:image/jpeg") >= 32
  assert len(text.encode()) <= report.MOST_BYTES


def test_conversations_of_endless_texts_that_do_not_fit_are_counted(tmp_path):
  lines = [line(i, text="&" * 100_000, turns=20) for i in range(40)]
  text = write(tmp_path, lines, count=40, config={"x": "&" * 10**6})
  assert len(text.encode()) <= report.MOST_BYTES
  assert "pictures more would not fit on the page" in text


def test_list_of_very_many_predictions_says_what_it_leaves_out(tmp_path):
  text = write(tmp_path, [line(i, id="&" * 500) for i in range(3000)], count=0)
  assert len(text.encode()) < 10**6
  assert re.search(r"The best [\d,]+ of 3,000 are left out here", text)
  assert 'id="line1"' in text


def luminance(rgb):
  """Relative luminance as WCAG defines it, of a colour as CSS writes it."""
  digits = rgb.strip("# ")
  digits = digits if len(digits) == 6 else "".join(2 * d for d in digits)
  levels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
  linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in levels]
  return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_texts_have_contrast_in_both_themes(tmp_path):
  css = re.search("<style>(.*)</style>", write(tmp_path), re.S).group(1)
  light, dark = (
    dict(re.findall(r"--([\w-]+):\s*(#\w+)", css[m.start() : m.end()]))
    for m in re.finditer(r":root \{.*?\}", css, re.S)
  )
  for theme in (light, dark):
    for ink in ("ink", "soft", "accent", "held", "warn"):
      for ground in ("bg", "card"):
        pair = sorted(luminance(theme[name]) + 0.05 for name in (ink, ground))
        assert pair[1] / pair[0] >= 4.5, (ink, ground, theme)


def test_curves_and_overlays_are_pictures(tmp_path):
  log = write_log(
    tmp_path / "log", *({"step": i, "loss": 1 / (i + 1)} for i in range(9))
  )
  text = write(tmp_path, [line(0)], log)
  assert size_of(tmp_path / "curves.png")[0] > 100
  assert size_of(tmp_path / "overlays.png")[0] > 100
  assert "<h3>loss" in text


def test_report_without_training_log_has_no_curves(tmp_path):
  text = write(tmp_path, log=tmp_path / "absent.jsonl")
  assert "<h2>Training" not in text and not (tmp_path / "curves.png").exists()


def test_a_control_of_what_is_not_there_is_read_by_its_empty_masks(tmp_path):
  """cIoU with nothing is 0 for any mask: a bar of it would look like a fall."""
  text = write(
    tmp_path,
    controls={
      "absent_target": {"ciou": metric(0.3), "no_target_accuracy": metric(0.7)}
    },
    control_measures={"absent_target": "no_target_accuracy"},
    dependence={"absent_target": {"conversations": 54, "iou": metric(0.64)}},
  )
  row = text[text.index(">absent target<") :].split('class="row')[0]
  assert "<b>0.700</b>" in row and "0.300" not in row and "falls" not in row
  assert "54 conversations" in row and "mean IoU 0.640 with what was not asked" in row


def test_how_many_conversations_a_control_is_of_stands_beside_it(tmp_path):
  known = {"conversations": 57, "change": {"value": -0.2, "low": -0.3, "high": -0.1}}
  text = write(tmp_path, dependence={"last_turn_only": known})
  assert "without the turns before it, 57 conversations: <strong>mean IoU" in text


def test_a_part_of_a_split_is_told_as_a_part(tmp_path):
  data = {"split": "val", "records": 300, "conversations": 60, "targets": 80}
  text = write(tmp_path, data=data, options={"limit": 60, "weights": "int8"})
  assert "80 targets of 60 conversations (the first, of 300)." in text
  assert "limit 60, weights int8" in text
  assert "the first" not in write(tmp_path, data=data, options={"limit": None})


def test_the_history_is_named_as_it_was(tmp_path):
  text = write(tmp_path, data={"history": "gold"})
  assert "the gold answers are the history" in text
  assert "its own answers are the history" not in text


def test_what_was_counted_is_told_by_name(tmp_path):
  altered = {"attribute_lie": {"applies": 9, "asked": 1}}
  text = write(tmp_path, data={"altered": altered, "failed": []})
  assert "altered (attribute lie (applies 9, asked 1)), failed 0" in text


def test_its_own_answers_may_be_worth_more(tmp_path):
  gap = {"gold": metric(0.4), "own": metric(0.55), "gap": metric(-0.15)}
  assert "0.150 more" in write(tmp_path, history_gap={"3": gap})


def test_a_surplus_mask_without_a_pixel_is_called_empty(tmp_path):
  kept = {"turn": 0, "index": 0, "mask": box(0, 0)}
  shown = line(0, turn_masks=[kept]) | {"targets": []}
  assert "a mask that was not due, and is empty" in write(tmp_path, [shown])


def test_what_earlier_masks_are_worth_is_on_the_page(tmp_path):
  found = {"edits_ciou": metric(0.41), "ciou_sibling": metric(0.27)}
  state = {"metrics": found, "swapped_follows": metric(0.83)}
  page = write(tmp_path, state=state)
  for told in ("0.410", "to the earlier mask it is: sibling; 7", "0.830"):
    assert told in page
  assert "follows from an earlier" not in write(tmp_path)
