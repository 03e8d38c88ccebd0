"""Files of a folder of results: the old one or the new one, and what a disk refuses."""

import os

import pytest

from miras_jax.checkpoint import workdir


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
