"""The one door to data: folders, schemes, and what is neither."""

import os
import shutil

import pytest

from input_pipeline import open_source as door
from input_pipeline.open_source import find_splits, open_source, resolve
from miras_jax import cli
from miras_jax.errors import UserError
from tests import prist_files


@pytest.fixture
def folder(tmp_path):
  return prist_files.write(tmp_path / "data", [prist_files.record()])


def test_a_folder_and_its_uri_are_the_same_data(folder):
  plain, named = (open_source(uri, "val") for uri in (folder, f"prist:{folder}"))
  assert plain.fingerprint() == named.fingerprint() and len(plain) == 1


@pytest.mark.parametrize("name", ["a:b", "tfds:x", "prist:y", "C:\\data"])
def test_a_folder_with_a_colon_in_its_name_opens(folder, name, monkeypatch):
  shutil.copytree(folder, folder.parent / name)
  monkeypatch.chdir(folder.parent)
  assert len(open_source(name, "val")) == 1


def test_an_unknown_scheme_is_one_line_that_lists_the_known():
  with pytest.raises(
    UserError, match="tdfs:x: no such folder.*'tdfs'.*prist:"
  ) as error:
    open_source("tdfs:x", "val")
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("uri", ["C:\\no\\data", "./a:b", "/no/such:folder", "nowhere"])
def test_a_missing_path_is_no_scheme(uri):
  with pytest.raises(UserError, match="no such data folder"):
    open_source(uri, "val")


def test_a_scheme_without_a_place_is_refused():
  with pytest.raises(UserError, match="prist:: names no data set"):
    resolve("prist:")


def test_a_new_scheme_is_one_row(monkeypatch):
  def read(place, split, *, images_dir=None, masks_dir=None):
    return place, split

  monkeypatch.setitem(door.OPENERS, "records", read)
  assert open_source("records:some/place:3", "val") == ("some/place:3", "val")


def test_check_says_which_data_sets_it_reads(monkeypatch):
  monkeypatch.setitem(door.OPENERS, "records", None)
  with pytest.raises(UserError, match="miras data check reads .* PRIST's layout"):
    cli.main(["data", "check", "records:x"])


def test_check_takes_a_uri(folder, capsys):
  assert cli.main(["data", "check", f"prist:{folder}"]) == 0
  assert "1 records, 1 images, 0 problems" in capsys.readouterr().out


def test_show_takes_a_uri(folder):
  picture = folder / "record.png"
  line = ["data", "show", f"prist:{folder}", "--split=val", f"--out={picture}"]
  assert cli.main(line) == 0 and os.path.getsize(picture)


def test_every_kind_of_data_lists_its_splits(folder):
  assert door.SPLITS.keys() == door.OPENERS.keys()
  assert find_splits(folder) == find_splits(f"prist:{folder}") == ["val"]


def test_a_folder_without_data_has_no_splits_to_list(tmp_path):
  with pytest.raises(UserError, match="holds no"):
    find_splits(tmp_path)
  with pytest.raises(UserError, match="holds no data set"):
    find_splits(f"tfds:{tmp_path}")
