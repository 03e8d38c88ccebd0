"""`miras compare`: what it writes, and what it says of runs that do not match."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from input_pipeline import mask_ops
from miras_jax.compare import command, page, predictions
from miras_jax.errors import UserError
from tests import prist_files
from tests.compare.written import EMPTY, HALF, SQUARE, line, write

SIXTY = range(60)


def compare(tmp_path, *runs, options=()):
  """compare.json of runs, each a list of lines."""
  places = [str(write(tmp_path / "ABC"[i], lines)) for i, lines in enumerate(runs)]
  out = tmp_path / "out"
  assert command.main([*places, f"--out={out}", "--resamples=1000", *options]) == 0
  text = (out / "compare.json").read_text()
  return json.loads(text, parse_constant=lambda x: pytest.fail(f"{x} in the JSON"))


def refused(tmp_path, *runs):
  with pytest.raises(UserError) as caught:
    compare(tmp_path, *runs)
  return str(caught.value)


def row(found, name="giou", pair=0):
  return found["pairs"][pair]["metrics"][name]


def test_a_better_run_is_named_with_interval_p_and_effect(tmp_path, capsys):
  """Every second image is better by half: B - A is 0.25."""
  half = [line(i, HALF) for i in SIXTY]
  better = [line(i, SQUARE if i % 4 < 2 else HALF) for i in SIXTY]
  found = compare(tmp_path, half, better)
  giou = row(found)
  assert giou["difference"] == pytest.approx(0.25) and giou["significant"]
  assert giou["low"] < 0.25 < giou["high"] and giou["p"] < 0.01
  assert giou["effect"] == pytest.approx(0.98, abs=0.01)
  assert (giou["higher"], giou["lower"], found["images"]) == (15, 0, 30)
  assert found["runs"][1]["metrics"]["giou"]["value"] == pytest.approx(0.75)
  assert "giou" in capsys.readouterr().out


def test_so_few_images_that_nothing_can_be_significant_are_told(tmp_path, capsys):
  runs = [[line(i, mask) for i in range(8)] for mask in (HALF, SQUARE)]
  found = compare(tmp_path, *runs)
  assert row(found)["p"] == found["pairs"][0]["least_p"] == 2 / 2**4
  assert "No difference could be significant here" in capsys.readouterr().out


def test_the_same_run_twice_differs_in_nothing(tmp_path):
  lines = [line(i, HALF) for i in range(6)]
  found = compare(tmp_path, lines, lines)
  assert found["tests"] == 0
  assert {r["p_holm"] for r in found["pairs"][0]["metrics"].values()} <= {1.0, None}


def test_three_runs_are_three_pairs_corrected_together(tmp_path):
  runs = [[line(i, mask) for i in SIXTY] for mask in (HALF, SQUARE, EMPTY)]
  found = compare(tmp_path, *runs, options=["--metrics=giou"])
  assert [(p["a"], p["b"]) for p in found["pairs"]] == [*map(tuple, ("AB", "AC", "BC"))]
  assert found["tests"] == 3
  assert row(found)["p_holm"] == pytest.approx(3 * row(found)["p"])


def test_values_are_those_of_the_metrics(tmp_path):
  found = compare(tmp_path, [line(0, HALF), line(1)], [line(0), line(1)])
  values = found["runs"][0]["metrics"]
  assert values["ciou"]["value"] == pytest.approx((18 + 36) / 72)
  assert values["seg_rate"]["value"] == 1.0


def test_missing_examples_are_named_and_counted(tmp_path):
  told = refused(tmp_path, [line(i) for i in range(4)], [line(0), line(3)])
  assert "val/1: is missing; A has it" in told and "val/2: is missing" in told
  assert "B: 2 examples that another run has" in told and "--allow-missing" in told


def test_allow_missing_scores_them_as_empty(tmp_path):
  runs = [line(i) for i in range(4)], [line(0), line(3)]
  found = compare(tmp_path, *runs, options=["--allow-missing"])
  values = found["runs"][1]["metrics"]
  assert values["giou"]["value"] == 0.5 and values["seg_rate"]["value"] == 0.5
  assert found["problems"]["missing"] == {"B": 2}
  assert "Scored as empty" in (tmp_path / "out" / "index.html").read_text()


def test_another_data_set_is_named_by_its_words(tmp_path):
  other = {"user": "The dog?", "answer": "[SEG]", "gold": "[SEG]", "num_seg": 1}
  told = refused(tmp_path, [line(0), line(1)], [line(0), line(1, turns=[other])])
  assert "val/1: words or targets are not those of A: another data set" in told


def test_another_data_set_is_named_by_its_true_masks(tmp_path):
  told = refused(tmp_path, [line(0), line(1)], [line(0), line(1, true=HALF)])
  assert "B:2: val/1: its true masks are not those of A: another data set" in told


def test_a_mask_of_another_size_is_named_and_never_scored(tmp_path):
  wide = line(1, np.ones((4, 7), np.uint8), true=SQUARE)
  runs = [line(0), line(1)], [line(0), wide]
  assert "B:2: val/1, turn 1: a mask of size [4, 7], want [12, 12]" in refused(
    tmp_path, *runs
  )
  found = compare(tmp_path, *runs, options=["--allow-missing"])
  assert found["runs"][1]["metrics"]["giou"]["value"] == 0.5


def test_half_a_line_is_named_and_its_example_is_missing(tmp_path):
  lines = [line(0), line(1)]
  write(tmp_path / "A", lines)
  with open(write(tmp_path / "B", lines[:1]) / "predictions.jsonl", "a") as file:
    file.write('{"id": "val/1", "im')
  with pytest.raises(UserError) as caught:
    command.main([str(tmp_path / x) for x in "AB"] + [f"--out={tmp_path / 'out'}"])
  assert "predictions.jsonl:2: not a line of JSON" in str(caught.value)
  assert "val/1: is missing" in str(caught.value)


def test_two_conversations_of_one_id_are_two_examples_in_any_order(tmp_path):
  dog = {"user": "The dog?", "answer": "[SEG]", "gold": "[SEG]", "num_seg": 1}
  twins = [line(0, HALF), line(0, SQUARE, turns=[dog])]
  found = compare(tmp_path, twins, twins[::-1])
  assert found["examples"] == 2 and found["tests"] == 0


def test_equal_conversations_are_matched_one_by_one(tmp_path):
  found = compare(tmp_path, [line(0, HALF), line(0)], [line(0, HALF), line(0)])
  assert found["examples"] == 2 and row(found)["difference"] == 0
  told = refused(tmp_path, [line(0), line(0)], [line(0)])
  assert "B: 1 examples that another run has" in told


def test_only_empty_targets_leave_no_nan(tmp_path):
  lines = [line(i, EMPTY, EMPTY) for i in range(3)]
  found = compare(tmp_path, lines, [line(0, SQUARE, EMPTY), *lines[1:]])
  assert row(found, "miou_no_empty")["difference"] is None
  assert found["runs"][1]["metrics"]["no_target_accuracy"]["value"] == pytest.approx(
    2 / 3
  )


def test_one_record_without_targets_leaves_no_nan(tmp_path):
  talk = line(0, targets=[])
  found = compare(tmp_path, [talk], [talk], options=["--power"])
  assert found["targets"] == 0 and row(found)["p"] is None


def test_power_of_one_run(tmp_path, capsys):
  lines = [line(i, SQUARE if i % 4 < 2 else EMPTY) for i in SIXTY]
  found = compare(tmp_path, lines, options=["--power", "--half_width=0.1"])
  assert found["pairs"] == []
  wanted = found["power"]["runs"]["A"]["giou"]["images_for_interval"]
  assert wanted == pytest.approx(1.96**2 * 0.25 / 0.01, rel=0.05)
  assert "images for an interval of +-0.1" in capsys.readouterr().out


def test_one_run_alone_is_refused_without_power(tmp_path):
  assert "1 runs: want 2" in refused(tmp_path, [line(0)])


def test_an_unknown_metric_names_the_nearest(tmp_path):
  with pytest.raises(UserError, match="did you mean 'giou'"):
    compare(tmp_path, [line(0)], [line(0)], options=["--metrics=gio"])


def test_a_folder_without_predictions_is_one_line(tmp_path):
  (tmp_path / "A").mkdir()
  with pytest.raises(UserError, match=r"A: no predictions\.jsonl there"):
    command.main([str(tmp_path / "A"), str(tmp_path / "A")])


# -- the data set and the page ------------------------------------------------------


def data_set(tmp_path):
  """A data set of one record whose target is a square, and its own true mask."""
  root = prist_files.write(tmp_path / "data", [prist_files.record()])
  true = np.zeros((prist_files.HEIGHT, prist_files.WIDTH), np.uint8)
  true[4:13, 4:13] = 1
  return root, true


def scored_on(tmp_path, pred, true, *, keep_true=True):
  turn = {
    "user": "Where is it?",
    "answer": "<script>",
    "gold": "Sure, [SEG].",
    "num_seg": 1,
  }
  one = line(0, pred, true, image="a.png", turns=[turn])
  if not keep_true:
    del one["targets"][0]["true"]
  return one


def test_true_masks_of_old_predictions_are_read_from_the_data_set(tmp_path):
  root, true = data_set(tmp_path)
  about = {"data": {"dir": str(root), "split": "val"}}
  old = [scored_on(tmp_path, true, true, keep_true=False)]
  none = [scored_on(tmp_path, 0 * true, true, keep_true=False)]
  places = [write(tmp_path / x, y, about) for x, y in (("A", old), ("B", none))]
  command.main([*map(str, places), f"--out={tmp_path / 'out'}"])
  found = json.loads((tmp_path / "out" / "compare.json").read_text())
  assert row(found)["difference"] == -1.0


def test_without_true_masks_and_data_set_the_remedy_is_told(tmp_path):
  one = line(0)
  del one["targets"][0]["true"]
  assert "--data=DIR" in refused(tmp_path, [one], [one])


def pictures(text):
  """Mean colour of each picture of a page."""
  import base64
  import io
  import re

  found = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
  opened = [Image.open(io.BytesIO(base64.b64decode(x))) for x in found]
  return [np.asarray(image).mean((0, 1)) for image in opened]


@pytest.mark.parametrize("with_data", [True, False])
def test_the_page_shows_photographs_where_it_can_and_escapes_texts(tmp_path, with_data):
  root, true = data_set(tmp_path)
  runs = [[scored_on(tmp_path, x, true)] for x in (true, 0 * true)]
  options = [f"--data={root}"] if with_data else []
  compare(tmp_path, *runs, options=options)
  text = (tmp_path / "out" / "index.html").read_text()
  assert "<script" not in text and "&lt;script&gt;" in text
  assert ("Masks alone" in text) != with_data
  ground = pictures(text)[2]  # of B, whose mask is empty
  assert (np.ptp(ground) < 2 and abs(ground[0] - page.BLANK) < 3) != with_data


def test_the_page_stays_small(tmp_path, monkeypatch):
  monkeypatch.setattr(page, "MOST_BYTES", 20_000)
  runs = [[line(i, mask) for i in SIXTY] for mask in (EMPTY, SQUARE)]
  compare(tmp_path, *runs, options=["--examples=60"])
  text = (tmp_path / "out" / "index.html").read_text()
  assert len(text) < 20_500 and "more do not fit this page" in text


def test_metrics_that_cannot_be_read_are_named_and_left_out(tmp_path, capsys):
  """A FIFO has no end to wait for."""
  os.mkfifo(tmp_path / "metrics.json")
  write(tmp_path, [line(0)])
  found = predictions.read(tmp_path, "A")
  assert found.about == {} and len(found.talks) == 1
  assert "metrics.json: is a FIFO" in capsys.readouterr().err


@pytest.mark.parametrize(
  "option", ["--level=1e-300", "--chance=1e-300", "--resamples=1000000000000"]
)
def test_options_past_what_can_be_counted_are_one_line(option):
  with pytest.raises(UserError, match=f"^{option.split('=')[0]}=.*: want "):
    command.main(["a", "b", option])


def test_an_interval_that_no_data_set_can_give_needs_no_number_of_images(tmp_path):
  runs = [[line(i, SQUARE if i % 4 < 2 else HALF) for i in range(8)]] * 2
  found = compare(tmp_path, *runs, options=["--power", "--half_width=1e-300"])
  giou = found["power"]["runs"]["A"]["giou"]
  assert giou["images_for_interval"] is None and giou["half_width"] > 0


def test_two_comparisons_into_one_folder_are_told(tmp_path):
  (tmp_path / "out").mkdir()
  with command.lock.hold(tmp_path / "out", "miras compare"):
    assert "out is in use by `miras compare`" in refused(tmp_path, [line(0)], [line(0)])


def test_memory_does_not_grow_with_the_targets_of_a_line(tmp_path, monkeypatch):
  """A few bytes of RLE may be millions of pixels, and a line holds thousands."""
  side, count = 1000, 24
  mask = mask_ops.encode_rle(np.ones((side, side), bool))
  one = line(0)
  one["targets"] = [one["targets"][0] | {"mask": mask, "true": mask, "index": k}
                    for k in range(count)]  # fmt: skip
  nothing = line(0) | {"targets": [t | {"mask": None} for t in one["targets"]]}
  monkeypatch.setattr(page, "MOST_PIXELS", count * side**2)
  tracemalloc.start()
  compare(tmp_path, [one], [nothing])
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert most < 16 * side**2
  assert "1 more do not fit this page" in (tmp_path / "out/index.html").read_text()


def test_a_name_without_an_end_does_not_fill_the_screen(tmp_path):
  told = refused(tmp_path, [line(0, id="x" * 1_000_000)], [line(0)])
  assert len(told) < 2000 and "1,000,000 letters" in told


def test_hostile_lines_are_problems_not_errors(tmp_path):
  size = {"size": [10**6, 10**6], "counts": "0"}
  hostile = [
    [1],
    {"id": 1},
    line(1) | {"targets": [{"turn": 9}]},
    line(1) | {"turns": {"user": "x"}},
    line(1) | {"id": "\ud800"},
    line(1) | {"turns": [line(1)["turns"][0] | {"num_seg": 10**400}]},
  ]
  bomb = line(2)
  bomb["targets"][0]["mask"] = size
  bad_true = line(3)
  bad_true["targets"][0]["true"] = {"size": [2, 2], "counts": "zzz"}
  runs = [line(0), line(2)], [line(0), *hostile, bomb, bad_true]
  told = refused(tmp_path, *runs)
  assert "B: 7 lines that cannot be read" in told
  assert "a mask of size [1000000, 1000000], want [12, 12]" in told
  assert mask_ops.MAX_MASK_PIXELS < 10**12


def test_the_page_says_which_way_a_difference_goes(tmp_path):
  worse = [line(i, HALF if i % 4 < 2 else SQUARE) for i in SIXTY]
  compare(tmp_path, [line(i) for i in SIXTY], worse, options=["--metrics=giou"])
  text = (tmp_path / "out/index.html").read_text()
  assert "B against A: significantly lower in giou<" in text


def test_one_model_twice_is_told_to_be_one(tmp_path, capsys):
  compare(tmp_path, [line(i, HALF) for i in SIXTY], [line(i, HALF) for i in SIXTY])
  assert "A and B differ in no image, by any metric." in capsys.readouterr().out
  assert "no difference in any image" in (tmp_path / "out/index.html").read_text()


def test_runs_that_were_evaluated_otherwise_are_told_apart(tmp_path, capsys):
  for name, history in (("A", "model"), ("B", "gold")):
    write(tmp_path / name, [line(0)], {"options": {"history": history, "limit": 3}})
  compare(tmp_path, [line(0)], [line(0)])
  told = "A was evaluated with history=model, B with history=gold."
  assert told in capsys.readouterr().out
  assert told in (tmp_path / "out/index.html").read_text()


def test_grounded_accuracy_takes_answer_and_mask(tmp_path):
  """Half of the mask and the right words: the root of a half."""
  silent = [line(0)["turns"][0] | {"answer": "No."}]
  found = compare(tmp_path, [line(0, HALF)], [line(0, turns=silent)])
  a, b = (run["metrics"]["grounded_accuracy"]["value"] for run in found["runs"])
  assert a == pytest.approx(0.5**0.5) and b == 0


def test_power_is_on_the_page_too(tmp_path):
  lines = [line(i, SQUARE if i % 4 < 2 else EMPTY) for i in SIXTY]
  compare(tmp_path, lines, options=["--power", "--half_width=0.1"])
  assert "images for an interval of +-0.1" in (tmp_path / "out/index.html").read_text()
