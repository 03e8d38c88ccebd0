"""`miras data audit`: lines, exit status, page and JSON, what it can read."""

import json

import pytest

from input_pipeline.builders.build import build
from input_pipeline.open_source import find_splits
from miras_jax.data import command as data
from miras_jax.errors import UserError
from tests import prist_files
from tests.input_pipeline.builders import numbered
from tests.prist_files import labelme, record, shape

CORNER = [[0.1, 0.1], [0.5, 0.1], [0.5, 0.5]]
ON_THE_RIGHT = [[20, 4], [30, 4], [30, 14], [20, 14]]


def folder(tmp_path, *, leak=True, **annotation):
  """A data set of two splits, each with one record about `a.png`; without a leak there
  is the second alone."""
  label = annotation or {"label": "cup"}
  shapes = labelme(shape(**label))
  root = prist_files.write(
    tmp_path / "set", [record(focus=label["label"])], annotation=shapes
  )
  if leak:
    (root / "train.json").write_text((root / "val.json").read_text())
  return root


def test_a_clean_set_ends_with_status_0(tmp_path, capsys):
  assert data.main(["audit", str(folder(tmp_path, leak=False))]) == 0
  first, *counts = capsys.readouterr().out.splitlines()
  assert first == "1 records of val.json:"
  assert all(line.split()[0] == "0" for line in counts)


def test_a_leak_is_named_where_it_was_held_out_and_ends_with_status_1(tmp_path, capsys):
  assert data.main(["audit", str(folder(tmp_path))]) == 1
  out = capsys.readouterr().out
  line = "val.json:0: its picture a.png has the pixels of a.png of train.json:0"
  assert out.startswith(f"equal_picture: {line}\n")
  assert "\n*        1  equal_picture " in out


def test_a_contradiction_fails_and_a_small_target_does_not(tmp_path):
  wrong = folder(tmp_path, leak=False, label="left cup", points=ON_THE_RIGHT)
  assert data.main(["audit", str(wrong)]) == 1
  small = folder(tmp_path, leak=False, label="cup", points=ON_THE_RIGHT)
  assert data.main(["audit", str(small), "--min_pixels=1000"]) == 0


def test_the_report_holds_every_finding_and_pictures_of_the_worst(tmp_path, capsys):
  root, out = folder(tmp_path, label="left cup", points=ON_THE_RIGHT), tmp_path / "out"
  assert data.main(["audit", str(root), f"--out={out}", "--min_pixels=5000"]) == 1
  found = json.loads((out / "audit.json").read_text())
  assert found["counts"]["equal_picture"] == 1 and found["fails"]
  assert found["counts"]["small_target"] == found["counts"]["wrong_side"] == 2
  assert len(found["findings"]) == 5
  assert found["findings"][0] == {
    "kind": "small_target",
    "file": "train.json",
    "record": 0,
    "reason": "the mask of 'left cup' has 121 pixels of 768",
  }
  page = (out / "audit.html").read_text()
  # Two of each finding's own picture, and one of what a leak is equal to.
  assert page.count("data:image/jpeg") == 2 * 5 + 1
  assert "<script" not in page and "http://" not in page
  assert str(out / "audit.html") in capsys.readouterr().out


def test_texts_of_the_data_are_escaped_in_the_page(tmp_path):
  root, out = (
    folder(tmp_path, leak=False, label="left <b>cup", points=ON_THE_RIGHT),
    tmp_path,
  )
  assert data.main(["audit", str(root), f"--out={out}"]) == 1
  page = (out / "audit.html").read_text()
  assert "left &lt;b&gt;cup" in page and "<b>cup" not in page


def test_another_data_set_is_compared_with(tmp_path, capsys):
  other = prist_files.write(tmp_path / "other", [record()], split="test")
  clean = folder(tmp_path, leak=False)
  assert data.main(["audit", str(clean), "--against", str(other)]) == 1
  assert f"has the pixels of a.png of {other}/test:0" in capsys.readouterr().out


def test_a_defective_record_is_a_line_with_its_reason(tmp_path, capsys):
  root = folder(tmp_path, leak=False, label="cup", points=CORNER)
  assert data.main(["audit", str(root)]) == 1
  out = capsys.readouterr().out
  assert out.startswith("defective: val.json:0: masks/a.json: shape 0 ('cup'): all its")


def test_a_built_data_set_is_audited_as_any_other(tmp_path, capsys):
  src = numbered.write(tmp_path / "src", ["good"] * 3)
  build(numbered.Numbered(), src, tmp_path / "out", num_workers=0)
  assert find_splits(tmp_path / "out") == ["train"]
  assert data.main(["audit", str(tmp_path / "out")]) == 0
  assert "3 records of numbered-train:" in capsys.readouterr().out


def test_an_unreadable_list_is_a_line_and_the_others_are_audited(tmp_path, capsys):
  root = folder(tmp_path, leak=False)
  (root / "train.json").write_text("[")
  assert data.main(["audit", str(root)]) == 1
  first, second, *_ = capsys.readouterr().out.splitlines()
  assert first.startswith("train.json:-: is not valid JSON")
  assert second == "1 records of val.json:"


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["nowhere"], "nowhere: no such data folder"),
    (["{}", "--against", "nowhere"], "nowhere: no such data folder"),
    (["{}", "--splits=dev"], "holds no split 'dev'; it has val"),
    (["{}", "--min_pixels=-1"], "--min_pixels=-1: want 0 or more"),
    (["{}", "--words=no.json"], "no.json: no such file of words"),
    (["{}", "--agains=x"], "unknown option '--agains'; did you mean '--against'"),
  ],
)
def test_a_mistake_is_one_line(tmp_path, options, message):
  root = folder(tmp_path, leak=False)
  with pytest.raises(UserError, match=message.replace("?", "[?]")):
    data.main(["audit", *(option.format(root) for option in options)])
