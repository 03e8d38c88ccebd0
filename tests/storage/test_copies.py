"""Copies in and out of a bucket: what changed, whole, in order, within its folder."""

import json
import pathlib

import pytest

from miras_jax.convert import command as convert
from miras_jax.errors import UserError
from miras_jax.inference import chat
from miras_jax.storage import copies, reach

PLACE = "gs://b/data"


class Bucket:
  """Objects in memory, as fsspec's file systems show them."""

  def __init__(self):
    self.objects, self.read, self.written = {}, [], []

  def put(self, name, text):
    version = self.objects.get(name, ("", 0))[1] + 1
    self.objects[name] = text, version

  def find(self, place, detail):
    root = place.removeprefix("gs://")
    return {
      name: {"size": len(text), "generation": version, "type": "file"}
      for name, (text, version) in self.objects.items()
      if name == root or name.startswith(f"{root}/")
    }

  def get_file(self, name, path):
    self.read.append(name)
    pathlib.Path(path).write_text(self.objects[name][0])

  def put_file(self, path, place):
    self.written.append(place)

  def ls(self, place, detail):
    return list(self.find(place, detail))

  def call(self, *_, **__):
    pass


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  made = Bucket()
  monkeypatch.setattr(reach, "filesystem", lambda _: made)
  monkeypatch.setenv("MIRAS_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr(copies, "_outputs", {})
  copies._fetch.cache_clear()
  return made


def fetch(place=PLACE):
  copies._fetch.cache_clear()
  return copies.fetch(place)


def test_a_local_place_is_itself(tmp_path):
  assert copies.fetch(tmp_path) == tmp_path and copies.fetch("") == ""


def test_only_what_changed_is_copied_again(bucket):
  bucket.put("b/data/train.json", "[]")
  bucket.put("b/data/images/1.jpg", "jpeg")
  folder = fetch()
  assert (folder / "images/1.jpg").read_text() == "jpeg"
  bucket.read.clear()
  bucket.put("b/data/train.json", "[1]")
  assert (fetch() / "train.json").read_text() == "[1]"
  assert bucket.read == ["b/data/train.json"]


def test_what_the_bucket_no_longer_has_is_gone_from_the_copy(bucket):
  bucket.put("b/data/a", "a")
  bucket.put("b/data/b", "b")
  fetch()
  del bucket.objects["b/data/a"]
  assert [p.name for p in fetch().iterdir()] == ["b"]


def test_a_copy_that_was_killed_goes_on(bucket, monkeypatch):
  for name in "abcdef":
    bucket.put(f"b/data/{name}", name)
  whole = bucket.get_file

  def killed(name, path):
    if name.endswith("d"):
      pathlib.Path(path).write_text("")
      raise KeyboardInterrupt
    whole(name, path)

  monkeypatch.setattr(copies, "THREADS", 1)
  monkeypatch.setattr(bucket, "get_file", killed)
  with pytest.raises(KeyboardInterrupt):
    fetch()
  bucket.read.clear()
  monkeypatch.setattr(bucket, "get_file", whole)
  folder = fetch()
  assert {p.name: p.read_text() for p in folder.iterdir()} == {c: c for c in "abcdef"}
  assert bucket.read[0] == "b/data/d" and "b/data/a" not in bucket.read


def test_a_single_object_keeps_its_name(bucket):
  bucket.put("b/photo.jpg", "jpeg")
  assert fetch("gs://b/photo.jpg").name == "photo.jpg"


def test_a_name_that_leaves_the_folder_is_refused(bucket):
  bucket.put("b/data/../../x", "x")
  with pytest.raises(UserError, match="would leave its folder"):
    fetch()


def test_nothing_of_that_name_is_one_line(bucket):
  with pytest.raises(UserError, match="gs://b/data: the bucket has nothing"):
    fetch()


def test_a_copy_that_does_not_fit_is_refused_before_it_begins(bucket, monkeypatch):
  bucket.put("b/data/a", "a" * 1000)
  usage = copies.shutil.disk_usage("/")._replace(free=10)
  monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: usage)
  with pytest.raises(UserError, match="MIRAS_CACHE"):
    fetch()
  assert not bucket.read


def test_an_output_is_copied_at_the_end_its_manifest_last(bucket):
  folder = pathlib.Path(copies.output("gs://b/converted"))
  (folder / "params").mkdir(parents=True)
  for name in ("manifest.json", "params/model.safetensors", "config.json", ".lock"):
    (folder / name).write_text("x")
  assert copies.place_of(folder) == "gs://b/converted" and not bucket.written
  copies.publish()
  assert bucket.written[-1] == "gs://b/converted/manifest.json"
  assert len(bucket.written) == 3 and not folder.exists()


def test_a_chat_counts_on_from_the_turns_that_are_in_the_bucket(bucket):
  bucket.put("b/masks/turn_07_overlay.png", "x")
  assert chat.last_turn(copies.output("gs://b/masks")) == 7
  assert chat.last_turn(copies.output("gs://b/other")) == 0


def test_a_folder_that_is_there_is_not_converted_into(bucket):
  bucket.put("b/conv/manifest.json", "{}")
  with pytest.raises(UserError, match="--dst=gs://b/conv exists already"):
    convert.check_new(copies.output("gs://b/conv"))
  convert.check_new(copies.output("gs://b/new"))


def test_half_a_line_of_the_index_is_not_believed(bucket, tmp_path):
  path = tmp_path / "index"
  path.write_text(json.dumps(["a", "1"]) + '\n["b", ')
  assert copies._read_index(path) == {"a": "1"}
