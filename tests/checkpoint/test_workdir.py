"""Files of a folder of results: the old one or the new one, and what a disk refuses."""

import os
import stat
import subprocess
import sys

import pytest

from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError


def test_a_full_disk_is_said_of_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
  path = tmp_path / "result.json"
  workdir.write_atomically(path, "old")

  def full(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space left.*result.json") as caught:
    workdir.write_atomically(path, "new")
  assert caught.value.errno == 28 and caught.value.filename == str(path)
  assert path.read_text() == "old" and os.listdir(tmp_path) == ["result.json"]


def test_what_a_link_points_to_is_written_and_the_link_stays(tmp_path):
  (tmp_path / "file").write_text("old")
  link = tmp_path / "link"
  link.symlink_to("file")
  workdir.write_atomically(link, "new")
  assert link.is_symlink() and (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("name, words", [("", "is a folder"), ("pipe", "no regular")])
def test_what_is_no_file_is_not_replaced(tmp_path, name, words):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(UserError, match=words):
    workdir.write_atomically(tmp_path / name, "new")
  assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_below_a_file_nothing_is_written(tmp_path):
  (tmp_path / "file").write_text("old")
  with pytest.raises(UserError, match="file/new.json: .* no folder"):
    workdir.write_atomically(tmp_path / "file" / "new.json", "new")


def test_two_processes_may_write_one_file(tmp_path):
  path = tmp_path / "result.json"
  code = (
    "import pathlib, sys\nfrom miras_jax.checkpoint import workdir\n"
    "for _ in range(200): workdir.write_atomically(pathlib.Path(sys.argv[1]), 'x' * 99)"
  )
  both = [subprocess.Popen([sys.executable, "-c", code, path]) for _ in range(2)]
  assert [process.wait(60) for process in both] == [0, 0]
  assert path.read_text() == "x" * 99 and os.listdir(tmp_path) == ["result.json"]
