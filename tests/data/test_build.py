"""`miras data build` as it is typed, with a source of the tests in its registry."""

import json

import pytest

from input_pipeline.builders import registry
from miras_jax.data import command
from miras_jax.errors import UserError
from tests.input_pipeline.builders import numbered


@pytest.fixture(autouse=True)
def known(monkeypatch):
  row = (numbered.__name__, "Numbered", {})
  monkeypatch.setitem(registry.BUILDERS, "numbered", row)


def run(tmp_path, kinds, *options):
  src = numbered.write(tmp_path / "src", kinds)
  out = tmp_path / "out"
  where = [f"--src={src}", f"--out={out}", "--num_workers=0"]
  return command.main(["build", "numbered", *where, *options]), out


def test_counts_are_printed_beside_the_published_ones(tmp_path, capsys):
  status, _ = run(tmp_path, ["good"] * 3, "--per_photo=2")
  row = next(x for x in capsys.readouterr().out.splitlines() if "conversations" in x)
  assert status == 0
  assert row.split() == ["train", "conversations", "6", "1,000"]


def test_what_is_rejected_is_a_line_and_the_status(tmp_path, capsys):
  status, out = run(tmp_path, ["good", "missing", "bad_rle"])
  printed = capsys.readouterr().out
  assert status == 1
  assert "list.txt:1: no such photograph" in printed
  assert "list.txt:2/0: " in printed
  assert f"{out}/numbered/1.0.0: 1 conversations, 2 entries rejected" in printed


def test_what_is_odd_is_a_warning_and_used(tmp_path, capsys):
  status, _ = run(tmp_path, ["odd"])
  assert status == 0
  assert "warning: list.txt:0: is odd" in capsys.readouterr().out


def test_so_many_may_be_rejected(tmp_path):
  assert run(tmp_path, ["good", "missing"], "--max_rejected=1")[0] == 0


def test_a_source_of_which_nothing_can_be_used_is_an_error(tmp_path):
  with pytest.raises(UserError, match="nothing could be used, 2 entries are rejected"):
    run(tmp_path, ["missing", "bad_rle"])


@pytest.mark.parametrize(
  "option, message",
  [
    ("--per_photo=1e3", "--per_photo=1e3: want a whole number"),
    ("--src=", "--src= is empty: name a folder"),
    ("--out=", "--out= is empty: name a folder"),
    ("--colour=3", "--colour=3 is no option; there are --per_photo="),
    ("--per_photo=many", "--per_photo=many: want a whole number"),
    ("--only=test", "--only=test: there are the splits train"),
    ("--num_workers=-1", "--num_workers=-1: want 0 or more"),
  ],
)
def test_a_wrong_option_is_one_line(tmp_path, option, message):
  with pytest.raises(UserError, match=message):
    run(tmp_path, ["good"], option)


def test_an_unknown_data_set_lists_the_known_ones(tmp_path):
  with pytest.raises(UserError, match="numbered"):
    command.main(["build", "numbers", f"--src={tmp_path}", f"--out={tmp_path}"])


def test_help_of_a_data_set_is_its_card(capsys):
  with pytest.raises(SystemExit):
    command.main(["build", "numbered", "--help"])
  printed = capsys.readouterr().out
  assert "licence: none stated" in printed
  assert "photo.png" in printed and "--per_photo=1" in printed


def test_a_built_data_set_is_checked_as_a_folder_is(tmp_path, capsys):
  _, out = run(tmp_path, ["good", "good", "bad_rle"])
  capsys.readouterr()
  assert command.main(["check", str(out)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("warning: list.txt:2/0: ")
  assert lines[-1] == "2 records, 2 images, 0 problems, 1 warnings"


def test_a_record_of_a_built_data_set_is_drawn(tmp_path):
  _, out = run(tmp_path, ["good"])
  picture = tmp_path / "record.png"
  where = ["--split=train", f"--out={picture}"]
  assert command.main(["show", f"tfds:{out}", *where]) == 0
  assert picture.read_bytes()[:4] == b"\x89PNG"


def test_a_second_build_into_the_folder_says_who_is_there(tmp_path):
  from miras_jax.checkpoint import lock

  (tmp_path / "out").mkdir()
  with lock.hold(tmp_path / "out", "miras data build"):
    with pytest.raises(UserError, match="in use by"):
      run(tmp_path, ["good"])


def test_a_bucket_gets_the_finished_build(tmp_path, monkeypatch):
  from etils import epath

  from input_pipeline import tfds_source
  from miras_jax.data import build

  _, out = run(tmp_path, ["good"])
  target = build.upload(out / "numbered/1.0.0", epath.Path(tmp_path / "bucket"))
  assert len(tfds_source.read_dataset(tmp_path / "bucket", "train")) == 1
  assert json.loads((target / "miras.json").read_text())["format"] == 1
