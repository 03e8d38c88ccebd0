"""Evaluation keeps what it has: bad records, ends in the middle, large photographs."""

import dataclasses
import io
import json
import shutil
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from input_pipeline import examples, mask_ops
from input_pipeline.open_source import open_source
from miras_jax.config.run import RunConfig
from miras_jax.config.settings import DataChoice
from miras_jax.errors import UserError
from miras_jax.evaluation import command as eval_command
from miras_jax.evaluation import evaluate as evaluation
from miras_jax.evaluation.records import read_records
from miras_jax.inference import rollout
from tests import prist_files, talker
from tests.evaluation import test_command as usual
from tests.evaluation.test_command import RECORDS, evaluate

BROKEN = {"size": [16, 16], "counts": "0"}  # runs that do not add up


@pytest.fixture(autouse=True)
def no_teacher_forcing(monkeypatch):
  monkeypatch.setattr(rollout.Forced, "masks", usual.no_masks)


def with_target(record, rle):
  return dataclasses.replace(record, targets=((record.targets[0][0], rle),))


def test_record_that_cannot_be_scored_is_named_and_left_out(capsys):
  found = evaluate(items=[RECORDS[0], with_target(RECORDS[1], BROKEN), RECORDS[2]])
  (line,) = found.result["data"]["failed"]
  assert line.startswith("val/1: cannot be scored: ValueError: RLE runs do not add up")
  assert line in capsys.readouterr().err
  assert [x["id"] for x in found.predictions] == ["val/0", "val/2"]
  assert found.result["data"]["conversations"] == 2
  assert found.result["metrics"]["seg_rate"]["value"] == 1.0


def test_example_of_a_line_after_one_that_failed_is_its_own():
  found = evaluate(items=[with_target(RECORDS[0], BROKEN), *RECORDS[1:]])
  assert [found.example(i).id for i in range(2)] == ["val/1", "val/2"]


def test_image_that_cannot_be_read_any_more_is_named_and_left_out():
  bad = dataclasses.replace(RECORDS[1], image=b"gone", image_id="other")
  found = evaluate(items=[RECORDS[0], bad, RECORDS[2]], controls=False)
  assert found.result["data"]["failed"][0].startswith("val/1: cannot be scored: not an")
  assert found.result["data"]["conversations"] == 2


def test_photographs_are_read_again_and_not_held(tmp_path):
  folder = prist_files.write(tmp_path, [prist_files.record()] * 3)
  found = read_records(open_source(folder, "val"), 2, shown="x")
  assert [record.image for record in found.records] == [b"", b""]
  assert found.image_of(1) == (folder / "images/a.png").read_bytes()


def test_photograph_that_went_away_leaves_its_records_out(tmp_path):
  records = [prist_files.record(img_id=f"{name}.png") for name in "ab"]
  folder = prist_files.write(tmp_path, records)
  for name in ("images/{}.png", "masks/{}.json"):
    shutil.copy(folder / name.format("a"), folder / name.format("b"))
  found = read_records(open_source(folder, "val"), shown="x")
  (folder / "images/b.png").unlink()
  result = evaluation.evaluate(
    talker.loaded(usual.script),
    found.records,
    evaluation.Options(controls=False),
    image_of=found.image_of,
  ).result
  assert result["data"]["conversations"] == 1
  (line,) = result["data"]["failed"]
  assert line.startswith("val/1: cannot be scored: val.json:1: images/b.png: no such")


def test_only_records_that_fail_is_a_users_mistake():
  with pytest.raises(UserError, match="no record could be scored: val/0: cannot"):
    evaluate(items=[with_target(RECORDS[0], BROKEN)])


def test_lines_are_there_when_the_end_is_not_reached(monkeypatch):
  def fails(*args, **options):
    raise KeyboardInterrupt

  monkeypatch.setattr(rollout.Forced, "masks", fails)
  lines = []
  with pytest.raises(KeyboardInterrupt):
    evaluation.evaluate(
      talker.loaded(usual.script), RECORDS, usual.OPTIONS, lines.append
    )
  assert sorted(line["id"] for line in lines) == ["val/0", "val/1", "val/2"]


def test_predictions_file_is_written_as_it_goes(tmp_path, monkeypatch):
  def fails(*args, **options):
    raise KeyboardInterrupt

  monkeypatch.setattr(rollout.Forced, "masks", fails)
  with pytest.raises(KeyboardInterrupt):
    usual.command(tmp_path, monkeypatch)
  lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
  assert sorted(json.loads(line)["id"] for line in lines) == ["val/0", "val/1"]


def test_example_that_cannot_be_drawn_costs_nothing_else(tmp_path, monkeypatch, capsys):
  def fails(*args):
    raise ValueError("no picture")

  monkeypatch.setattr(evaluation, "_example", fails)
  assert usual.command(tmp_path, monkeypatch) == 0
  assert "val/0: not drawn: no picture" in capsys.readouterr().err
  assert (tmp_path / "out" / "index.html").exists()


def large(count, side=400):
  """Records about photographs much larger than the model's canvas."""
  stream = io.BytesIO()
  Image.new("RGB", (side, side), "red").save(stream, "PNG")
  mask = np.zeros((side, side), np.uint8)
  mask[:, : side // 2] = 1
  return [
    dataclasses.replace(
      RECORDS[0],
      id=f"val/{i}",
      image=stream.getvalue(),
      image_id=str(i),
      targets=(("left", mask_ops.encode_rle(mask)),),
    )
    for i in range(count)
  ]


def peak(items):
  tracemalloc.start()
  evaluate(items=items)
  found = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  return found


def test_memory_does_not_grow_with_full_size_masks():
  peak(large(4))
  # Five masks of 160,000 pixels for each of 24 more records would be 19 MB.
  assert peak(large(28)) - peak(large(4)) < 5_000_000


def many(count):
  """A conversation whose answer has `count` [SEG]."""
  turns = (*RECORDS[0].turns[:3], ("assistant", "[SEG]" * count))
  return dataclasses.replace(
    RECORDS[0], turns=turns, targets=RECORDS[0].targets * count
  )


def test_a_conversation_of_more_seg_than_a_row_holds_is_evaluated_whole():
  """Forty masks of an answer where the model draws two at a time."""
  names = ["left", "top"] * 20
  masks = [dict(left=usual.LEFT, top=usual.TOP)[name] for name in names]
  targets = tuple(zip(names, map(mask_ops.encode_rle, masks), strict=True))
  item = dataclasses.replace(many(40), targets=targets)
  found = evaluate(lambda prompt, image: ("[SEG]" * 40, names), items=[item])
  assert found.result["metrics"]["ciou"]["value"] == 1.0
  (line,) = found.predictions
  assert [t["produced"] for t in line["targets"]] == [True] * 40
  assert len(line["turn_masks"]) == 80  # it says as many in the first turn


def test_teacher_forcing_reads_a_conversation_of_many_seg_several_times():
  loaded = talker.loaded(usual.script)._replace(model=usual.PositionModel())
  items = {0: many(5), 3: many(1)}
  views = evaluation.ImageViews([many(5)] * 4, loaded.data)
  forced = rollout.Forced(loaded, views, batch_size=2)
  found = usual.FORCED_MASKS(forced, items)
  at = [int(mask[0, 0]) for mask in found[0]]
  assert at == list(range(at[0], at[0] + 5))  # the place of each [SEG] in the row
  assert [int(mask[0, 0]) for mask in found[3]] == at[:1]


def moved(tmp_path, monkeypatch, *flags, run=None):
  """`miras eval` on a data set whose photographs lie elsewhere; what metrics.json says.

  run: the DataChoice of the checkpoint's run.
  """
  root = prist_files.write(tmp_path / "data", [prist_files.record()])
  for name in ("images", "masks"):
    (root / name).rename(tmp_path / name)
  loaded = talker.loaded(lambda prompt, image: ("Sure, [SEG].", ["all"]))
  loaded = loaded._replace(config=usual.Config())
  config = RunConfig(data=run or DataChoice())
  usual.stand_in(monkeypatch, loaded, config)
  eval_command.main(["--checkpoint=runs/x", f"--out={tmp_path / 'out'}", *flags])
  return json.loads((tmp_path / "out" / "metrics.json").read_text())["data"]


def test_photographs_elsewhere_are_named_by_options(tmp_path, monkeypatch):
  folders = [f"--{n}-dir={tmp_path / n}" for n in ("images", "masks")]
  found = moved(tmp_path, monkeypatch, f"--data={tmp_path / 'data'}", *folders)
  assert found["conversations"] == 1


def test_what_the_run_read_needs_no_option(tmp_path, monkeypatch):
  folders = {f"{n}_dir": str(tmp_path / n) for n in ("images", "masks")}
  run = DataChoice(dir=str(tmp_path / "data"), **folders)
  found = moved(tmp_path, monkeypatch, run=run)
  assert found["conversations"] == 1 and found["dir"] == str(tmp_path / "data")


def test_folders_of_the_run_belong_to_its_own_data_only(tmp_path, monkeypatch):
  folders = {f"{n}_dir": str(tmp_path / n) for n in ("images", "masks")}
  run = DataChoice(dir=str(tmp_path / "other"), **folders)
  with pytest.raises(UserError, match="no usable record"):
    moved(tmp_path, monkeypatch, f"--data={tmp_path / 'data'}", run=run)


def test_without_any_data_the_option_is_named(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="--data=DIR is missing"):
    moved(tmp_path, monkeypatch)


def test_negative_seed_is_one_line(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="--seed=-1 must be at least 0"):
    usual.command(tmp_path, monkeypatch, "--seed=-1")


def test_a_record_without_its_photograph_is_still_about_one(tmp_path):
  """What teacher forcing sees of it: the image's tokens, and all of its targets."""
  folder = prist_files.write(tmp_path, [prist_files.record()])
  source = open_source(folder, "val")
  [record] = read_records(source, shown="x").records
  tokenizer, data = talker.tokenizer(), talker.data_config()
  bare, whole = (
    examples.make_row(r, tokenizer, data) for r in (record, source.load(0))
  )
  np.testing.assert_array_equal(bare[0]["image_slot"], whole[0]["image_slot"])
  assert (bare[0]["image_slot"] >= 0).sum() == data.num_image_tokens
  assert bare[1] == whole[1] and len(bare[1]) == 1
