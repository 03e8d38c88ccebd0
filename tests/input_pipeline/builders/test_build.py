"""Building a data set: what is written, what is refused, what a stopped build keeps."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from input_pipeline import mask_ops, tfds_source
from input_pipeline.builders import build as builders_build
from input_pipeline.builders import schema
from input_pipeline.builders.build import build
from input_pipeline.open_source import open_source
from input_pipeline.records import SegConversation
from miras_jax.errors import UserError
from tests.input_pipeline.builders import numbered
from tests.input_pipeline.builders.numbered import BAD, Numbered


def built(tmp_path, kinds, *, workers=0, **options):
  """(folder, source "train") of a build of photographs of these kinds."""
  src = numbered.write(tmp_path / "src", kinds)
  folder = build(Numbered(**options), src, tmp_path / "out", num_workers=workers)
  return folder, open_source(tmp_path / "out", "train")


def test_a_record_comes_back_as_it_was(tmp_path):
  _, source = built(tmp_path, ["good"] * 3, per_photo=2)
  record = source.load(3)
  mask = np.zeros(numbered.SIZE, np.uint8)
  mask[1:3, 1:4] = 1
  photo = (tmp_path / "src" / "photo.png").read_bytes() + (1).to_bytes(4, "big")
  assert record == SegConversation(
    id="1/1",
    source="numbered",
    image=photo,
    image_id="numbered/00001",
    turns=(("user", "Where is thing 1?"), ("assistant", "Here: [SEG].")),
    targets=(("thing 1", mask_ops.encode_rle(mask)),),
  )


def test_a_photograph_is_stored_once_for_all_its_conversations(tmp_path):
  folder, source = built(tmp_path, ["good"] * 4, per_photo=3)
  assert len(source) == 12
  import tensorflow_datasets as tfds

  data = tfds.builder_from_directory(folder).as_data_source(split="train")
  assert len(data) == 4
  assert data[2]["image"].shape == (*numbered.SIZE, 3)
  assert list(data[2]["conversations"]["id"]) == [b"2/0", b"2/1", b"2/2"]


def test_an_example_holds_a_bounded_number_of_conversations(tmp_path):
  folder, source = built(
    tmp_path, ["good"], per_photo=(many := schema.MAX_CONVERSATIONS + 2)
  )
  assert [source.load(i).id for i in range(many)] == [f"0/{k}" for k in range(many)]
  assert (
    json.loads((folder / "miras.json").read_text())["splits"]["train"]["examples"] == 2
  )


def test_the_data_card_is_tfds_own(tmp_path):
  folder, _ = built(tmp_path, ["good"])
  import tensorflow_datasets as tfds

  info = tfds.builder_from_directory(folder).info
  assert (info.name, str(info.version)) == ("numbered", "1.0.0")
  assert info.citation == "@misc{numbered}"
  assert info.redistribution_info.license == "none stated"
  assert info.splits["train"].num_examples == 1


def test_text_without_a_photograph_has_none_when_read(tmp_path):
  _, source = built(tmp_path, ["text", "good"])
  record = source.load(0)
  assert (record.image, record.image_id, record.targets) == (b"", "", ())
  assert source.load(1).image


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_entry_is_named_and_the_others_stay(tmp_path, kind):
  _, source = built(tmp_path, ["good", kind, "good"])
  assert [source.load(i).id for i in range(len(source))] == ["0/0", "2/0"]
  [(_, record, reason)] = source.rejected()
  assert str(record).startswith("1") and reason


def test_a_thousand_bad_entries_among_ten_thousand_are_all_named(tmp_path):
  kinds = ["good"] * 10_000
  for k in range(1000):
    kinds[10 * k + 3] = BAD[k % len(BAD)]
  _, source = built(tmp_path, kinds)
  good = [i for i, kind in enumerate(kinds) if kind == "good"]
  ids = [source.load(i).id for i in range(0, len(source), 97)]
  assert ids == [f"{i}/0" for i in good[::97]]
  named = {int(str(record).split("/")[0]) for _, record, _ in source.rejected()}
  assert named == {i for i, kind in enumerate(kinds) if kind != "good"}


def test_workers_write_the_same_bytes_as_one_process(tmp_path):
  kinds = ["good", "bad_rle", *["good"] * 38]
  one, _ = built(tmp_path / "a", kinds)
  two, _ = built(tmp_path / "b", kinds, workers=2)
  names = sorted(path.name for path in one.iterdir() if path.suffix != ".json")
  assert len([name for name in names if ".array_record-" in name]) == 3
  for name in names:
    assert (one / name).read_bytes() == (two / name).read_bytes()


def test_a_stopped_build_goes_on_with_the_shards_that_are_missing(
  tmp_path, monkeypatch
):
  src = numbered.write(tmp_path / "src", ["good"] * 60)
  read = []
  records = Numbered.records

  def stop_in_the_third_shard(self, folder, unit):
    if unit["number"] == 35 and not read:
      raise KeyboardInterrupt
    return records(self, folder, unit)

  def remember(self, folder, unit):
    read.append(unit["number"])
    return records(self, folder, unit)

  monkeypatch.setattr(Numbered, "records", stop_in_the_third_shard)
  with pytest.raises(KeyboardInterrupt):
    build(Numbered(), src, tmp_path / "out")
  monkeypatch.setattr(Numbered, "records", remember)
  build(Numbered(), src, tmp_path / "out")
  assert read == list(range(32, 60))  # two shards of 16 were done
  assert len(open_source(tmp_path / "out", "train")) == 60


KILLED = """
import sys, time
from input_pipeline.builders import build, shard
from tests.input_pipeline.builders.numbered import Numbered
write = shard.write
def slow(builder, source, folder, number, lines):
  if number == 2:
    print("two are done", flush=True)
    time.sleep(60)
  return write(builder, source, folder, number, lines)
shard.write = slow
build.build(Numbered(), sys.argv[1], sys.argv[2])
"""


def test_a_killed_build_goes_on_and_is_equal_to_one_in_peace(tmp_path):
  src = numbered.write(tmp_path / "src", ["good", "truncated"] * 30)
  command = [sys.executable, "-c", KILLED, src, tmp_path / "out"]
  process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  assert process.stdout.readline() == "two are done\n"
  process.send_signal(signal.SIGKILL)
  process.wait()
  one = build(Numbered(), src, tmp_path / "out")
  other = build(Numbered(), src, tmp_path / "peace")
  for path in other.glob("*train*"):
    assert path.read_bytes() == (one / path.name).read_bytes()


def test_a_finished_build_is_left_as_it_is(tmp_path):
  folder, _ = built(tmp_path, ["good"])
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  build(Numbered(), tmp_path / "src", tmp_path / "out")
  assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_other_options_over_a_finished_build_are_refused(tmp_path):
  built(tmp_path, ["good"])
  with pytest.raises(UserError, match="was built with options={'per_photo': 1}"):
    build(Numbered(per_photo=2), tmp_path / "src", tmp_path / "out")


def test_a_half_built_folder_is_named_where_the_options_differ(tmp_path, monkeypatch):
  src = numbered.write(tmp_path / "src", ["good"])
  monkeypatch.setattr(builders_build, "_write_shards", _stop)
  with pytest.raises(KeyboardInterrupt):
    build(Numbered(), src, tmp_path / "out")
  with pytest.raises(UserError, match="is half-built with options"):
    build(Numbered(per_photo=3), src, tmp_path / "out")
  with pytest.raises(UserError, match="its build is not finished"):
    open_source(f"tfds:{tmp_path / 'out/numbered/1.0.0'}", "train")


def _stop(*_):
  raise KeyboardInterrupt


def test_a_folder_that_no_build_made_is_not_written_into(tmp_path):
  src = numbered.write(tmp_path / "src", ["good"])
  mine = tmp_path / "out/numbered/1.0.0/mine.txt"
  mine.parent.mkdir(parents=True)
  mine.write_text("mine")
  with pytest.raises(UserError, match="holds files that no build made"):
    build(Numbered(), src, tmp_path / "out")
  assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_missing_files_name_the_page_and_the_layout(tmp_path):
  (tmp_path / "src").mkdir()
  with pytest.raises(UserError) as error:
    build(Numbered(), tmp_path / "src", tmp_path / "out")
  assert "https://example.org/numbered" in str(error.value)
  assert error.value.details == numbered.CARD.layout.rstrip()
  assert not (tmp_path / "out").exists()


def test_a_worker_that_dies_is_one_line(tmp_path, monkeypatch):
  src = numbered.write(tmp_path / "src", ["good"])
  with pytest.raises(UserError, match="run the command again"):
    build(Dying(), src, tmp_path / "out", num_workers=1)


class Dying(Numbered):
  """Its process ends in the middle, as for want of memory."""

  def records(self, src, unit):
    os._exit(9)


def test_a_damaged_shard_costs_a_named_record(tmp_path):
  folder, _ = built(tmp_path, ["good"] * 3)
  [path] = folder.glob("*.array_record-*")
  data = bytearray(path.read_bytes())
  where = data.index((1).to_bytes(4, "big"), 200)
  data[where - 40 : where - 20] = bytes(20)
  path.write_bytes(data)
  source = open_source(folder, "train")
  assert "cannot be read from its shard" in str(source.load(1))
  assert source.load(0).id == "0/0" and source.load(2).id == "2/0"


def test_dialogues_are_known_without_the_photographs(tmp_path):
  folder, source = built(tmp_path, ["good"] * 2)
  for path in folder.glob("*.array_record-*"):
    path.unlink()
  said = list(source.dialogues())
  assert said[1].turns[0] == ("user", "Where is thing 1?")
  assert said[1].names == ["thing 1"]
  assert list(source.image_ids) == ["numbered/00000", "numbered/00001"]


def test_other_masks_change_the_files_fingerprint_only(tmp_path):
  _, one = built(tmp_path / "a", ["good"])
  src = numbered.write(tmp_path / "b/src", ["good"])
  photo = src / "photo.png"
  photo.write_bytes(photo.read_bytes() + b"x")
  build(Numbered(), src, tmp_path / "b/out")
  other = open_source(tmp_path / "b/out", "train")
  assert one.fingerprint() == other.fingerprint()
  assert one.files_fingerprint() != other.files_fingerprint()


def test_several_data_sets_in_a_folder_have_to_be_named(tmp_path):
  built(tmp_path, ["good"])
  (tmp_path / "out/other/1.0.0").mkdir(parents=True)
  (tmp_path / "out/other/1.0.0" / tfds_source.INFO).write_text("{}")
  with pytest.raises(UserError, match="name one of numbered/1.0.0, other/1.0.0"):
    open_source(f"tfds:{tmp_path / 'out'}", "train")
  assert len(open_source(tmp_path / "out/numbered", "train")) == 1


def test_a_build_has_a_card_for_people_to_complete(tmp_path):
  folder, _ = built(tmp_path, ["good", "bad_rle"])
  card = (folder / "card.md").read_text()
  counts = json.loads((folder / "miras.json").read_text())["splits"]["train"]
  assert "# Data card: " in card and counts["rejected"] == 1
  assert f" {counts['targets']} | {counts['empty_targets']} | 1 |\n" in card
