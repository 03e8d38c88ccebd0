"""`miras data stats` of a mixture: what a run draws, as numbers and as a picture."""

import json
import sys

import pytest
from PIL import Image

from miras_jax import options
from miras_jax.data import command as data
from miras_jax.errors import UserError
from tests import prist_files


@pytest.fixture
def root(tmp_path):
  """`looks` with six records of one mask, `prist` with two of two masks."""
  one, two = (
    prist_files.record(),
    prist_files.record(focus=["cup", None], answer="[SEG] and [SEG]"),
  )
  prist_files.write(tmp_path / "looks", [one] * 6, split="train")
  prist_files.write(tmp_path / "prist", [two] * 2, split="train")
  return tmp_path


def stats(capsys, *argv):
  assert data.main(["stats", *map(str, argv), "--json"]) == 0
  return json.loads(capsys.readouterr().out)


def of_mixture(root, *more):
  page = ("--config=miras_7b_stage2:size=tiny", "--config.mixture=multiturn:1,looks:3")
  return (*page, f"--config.data.dir={root}", "--draws=40", *more)


def test_the_mixture_of_a_config_as_it_is_drawn(root, capsys):
  found = stats(capsys, *of_mixture(root))
  looks, prist = found["sources"]["looks"], found["sources"]["prist"]
  assert (looks["drawn"], prist["drawn"], found["draws"]) == (30, 10, 40)
  assert (looks["wanted"], looks["share"], looks["passes"]) == (0.75, 0.75, 5.0)
  assert (looks["masks"], prist["masks"], prist["entry"]) == (1, 2, "multiturn")


def test_histograms_count_every_draw(root, capsys):
  found = stats(capsys, *of_mixture(root))["histograms"]
  assert sum(found["tokens"]["counts"]) == sum(found["turns"]["counts"]) == 40
  assert sum(found["areas"]["counts"]) == 30 + 2 * 10
  # Each of the two photographs once, with the masks of the records that were drawn.
  assert found["masks"]["counts"][0] + found["masks"]["counts"][-1] == 2
  assert found["masks"]["edges"][0] == 4 and found["masks"]["edges"][-1] == 7


def test_several_folders_are_a_mixture_of_equal_weights(root, capsys):
  found = stats(capsys, root / "looks", root / "prist", "--draws=10")
  assert [row["drawn"] for row in found["sources"].values()] == [5, 5]


def test_one_folder_is_read_once_at_most(root, capsys, tmp_path):
  found = stats(capsys, root / "looks", f"--out={tmp_path}/a.png")
  assert found["draws"] == 6


def test_the_table_names_each_data_set_and_the_picture(root, capsys, tmp_path):
  picture = tmp_path / "stats.png"
  assert data.main(["stats", *of_mixture(root, f"--out={picture}")]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines[1:3]] == ["looks", "prist"]
  assert "rows of up to 3" in lines[3] and lines[-1] == str(picture)
  with Image.open(picture) as image:
    assert min(image.size) > 500


def test_without_matplotlib_nothing_is_read(root, monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(ModuleNotFoundError) as raised:
    data.main(["stats", *of_mixture(root, f"--out={tmp_path}/a.png")])
  assert options.missing(raised.value.name).endswith("pip install 'miras_jax[eval]'")


@pytest.mark.parametrize(
  "argv, words",
  [
    ([], "want DIR, or --config=FILE"),
    (["--config=prist_quickstart", "d"], "want DIR, or --config=FILE, not both"),
    (["d", "--draws=0"], "--draws=0 must be at least 1"),
    (["d", "--config.steps=3"], "unknown option --config.steps"),
  ],
)
def test_a_wrong_command_is_one_line(argv, words):
  with pytest.raises(UserError, match=words):
    data.main(["stats", *argv])
