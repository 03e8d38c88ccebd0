"""`miras data`: lines, exit status, counts, the picture."""

import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from miras_jax.data import command as data
from miras_jax.errors import UserError
from tests.prist_files import SQUARE, labelme, record, shape, write


def test_check_of_good_data_prints_the_summary_alone(tmp_path, capsys):
  write(tmp_path, [record(), record(focus=None)])
  assert data.main(["check", str(tmp_path)]) == 0
  assert capsys.readouterr().out == "2 records, 1 images, 0 problems, 0 warnings\n"


def test_check_prints_problems_then_warnings_then_the_summary(tmp_path, capsys):
  write(tmp_path, [record(), record(), record(focus="dog"), "oops"])
  no_match = "no ground truth: no label equals or contains focus 'dog'"
  assert data.main(["check", str(tmp_path)]) == 1
  assert capsys.readouterr().out.splitlines() == [
    f"val.json:2: masks/a.json: {no_match}",
    "val.json:3: is a str, want an object with img_id, dialogue, focus",
    "warning: val.json:1: is equal to record 0; both are kept",
    "4 records, 1 images, 2 problems, 1 warnings",
  ]


def test_warnings_alone_do_not_fail(tmp_path, capsys):
  write(tmp_path, [record(), record()])
  assert data.main(["check", str(tmp_path)]) == 0
  assert "0 problems, 1 warnings" in capsys.readouterr().out


def test_check_goes_on_after_an_unreadable_list(tmp_path, capsys):
  write(tmp_path, [record()], split="val")
  (tmp_path / "train.json").write_text("[")
  assert data.main(["check", str(tmp_path)]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("train.json:-: is not valid JSON")
  assert lines[-1] == "1 records, 1 images, 1 problems, 0 warnings"


@pytest.mark.parametrize("command", ["check", "stats"])
def test_missing_folder_is_one_line(tmp_path, capsys, command):
  with pytest.raises(UserError, match="nowhere: no such data folder$"):
    data.main([command, str(tmp_path / "nowhere")])
  assert capsys.readouterr().out == ""


def test_misspelt_option_is_named():
  with pytest.raises(UserError, match="unknown option '--conversation'"):
    data.main(["synth", "--out", "d", "--conversation", "9"])


def test_command_line_ends_with_a_line_and_status_one(tmp_path):
  command = [sys.executable, "-m", "miras_jax.data", "check", str(tmp_path / "nowhere")]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert done.stderr.endswith("nowhere: no such data folder\n")
  assert len(done.stderr.splitlines()) == 1


def test_stats_count_what_is_there(tmp_path, capsys):
  annotation = labelme(
    shape("left cup"), shape("right cup", [[20, 4], [30, 4], [30, 9]])
  )
  left = record(focus="left cup")
  two = record(focus=["cup", None], answer="[SEG] and [SEG]")
  write(tmp_path, [left, two, record(focus="dog")], annotation=annotation)
  assert data.main(["stats", str(tmp_path), "--json"]) == 0
  stats = json.loads(capsys.readouterr().out)["splits"]["val"]
  assert stats["conversations"] == 3
  assert (stats["usable"], stats["defective"]) == (2, 1)
  assert (stats["turns"], stats["messages"], stats["words"]) == (
    3,
    6,
    3 * 3 + 2 + 3 + 2,
  )
  assert stats["seg_per_conversation"] == {"1": 2, "2": 1}
  assert (stats["targets"], stats["empty_targets"]) == (3, 1)
  assert stats["ambiguous_focuses"] == 1
  side = SQUARE[2][0] - SQUARE[0][0] + 1
  assert stats["target_area"]["min"] == pytest.approx(side**2 / (24 * 32), abs=1e-5)


def test_stats_table_has_a_column_for_each_split(tmp_path, capsys):
  write(tmp_path, [record()], split="train")
  write(tmp_path, [record(), record(focus=None)], split="val")
  assert data.main(["stats", str(tmp_path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].split() == ["train", "val"]
  assert lines[1].split() == ["conversations", "1", "2"]


def test_stats_work_without_photographs(tmp_path, capsys):
  write(tmp_path, [record(img_id="gone.png")])
  assert data.main(["stats", str(tmp_path), "--json"]) == 0
  stats = json.loads(capsys.readouterr().out)["splits"]["val"]
  assert (stats["messages"], stats["usable"], stats["target_area"]) == (2, 0, None)


def test_show_draws_the_mask_over_the_image(tmp_path):
  write(tmp_path, [record(), record(focus=None)])
  for index in (0, 1):
    command = ["show", str(tmp_path), "--split", "val", "--index", str(index)]
    assert data.main([*command, "--out", str(tmp_path / f"{index}.png")]) == 0
  masked, plain = (image_pixels(tmp_path / f"{i}.png") for i in (0, 1))
  # 32x24 pixels are shown 20 times as large, 16 pixels from the corner.
  differs = (masked != plain).any(axis=2)
  assert differs[16 + 20 * 8, 16 + 20 * 8]
  assert not differs[16 + 20 * 20, 16 + 20 * 25]


def image_pixels(path):
  with Image.open(path) as picture:
    return np.asarray(picture.convert("RGB"))[: 16 + 480, : 16 + 640]


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    (["--index", "5"], "--index 5: val.json has records 0 to 1"),
    (["--split", "test"], "no split 'test'"),
    (["--index", "1"], "val.json:1: focus is missing"),
    (["--out", "/no/such/folder/a.png"], "cannot write this picture"),
  ],
)
def test_show_names_the_mistake(tmp_path, changes, text):
  bad = record()
  del bad["focus"]
  write(tmp_path, [record(), bad])
  command = ["show", str(tmp_path), "--split", "val", "--out", str(tmp_path / "a.png")]
  with pytest.raises(UserError, match=re.escape(text)):
    data.main([*command, *changes])


def test_show_wraps_a_word_longer_than_a_line(tmp_path):
  long = record(answer="[SEG] " + "w" * 2000)
  write(tmp_path, [long])
  out = tmp_path / "a.png"
  command = ["show", str(tmp_path), "--split", "val", "--out", str(out)]
  assert data.main(command) == 0
  with Image.open(out) as picture:
    assert picture.height > 600


def test_synth_hands_over_its_arguments(tmp_path, monkeypatch):
  calls = []
  fake = types.ModuleType("input_pipeline.prepare.synth")
  fake.generate = lambda *args: calls.append(args)
  monkeypatch.setitem(sys.modules, "input_pipeline.prepare.synth", fake)
  monkeypatch.setattr("input_pipeline.prepare.synth", fake, raising=False)
  monkeypatch.chdir(tmp_path)
  command = ["synth", "--out", "d", "--conversations", "12", "--seed", "3"]
  assert data.main([*command, "--short", "2"]) == 0
  assert calls == [(pathlib.Path("d"), 12, 3, 2, 0.0)]


@pytest.mark.parametrize("command", ["check", "stats", "show", "synth", "cache"])
def test_help_teaches_by_example(capsys, command):
  with pytest.raises(SystemExit) as exit_info:
    data.main([command, "--help"])
  assert exit_info.value.code == 0
  assert f"example:\n  miras data {command} " in capsys.readouterr().out
