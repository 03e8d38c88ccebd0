"""`config.mixture` from the config to the log, and a run that goes on with another."""

import json
import logging

import jax
import numpy as np
import pytest

from input_pipeline import open_source
from miras_jax.checkpoint import workdir
from miras_jax.checkpoint.store import Checkpoints
from miras_jax.config import file as config_file
from miras_jax.config import run as run_config
from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import loop, plan, sources, task
from tests import prist_files
from tests.input_pipeline.test_examples import NoPicture
from tests.training.test_task import config_for


@pytest.fixture
def root(tmp_path, monkeypatch):
  """A folder with the data set `looks`; `fake:` opens questions without a picture."""
  folder = tmp_path / "data" / "looks"
  records = [prist_files.record(answer="Sure, [SEG].") for _ in range(6)]
  prist_files.write(folder, records, split="train")
  prist_files.write(folder, records[:2], split="val")

  def open_fake(place, split, **_):
    if split != "train":
      raise UserError(f"{place} has no {split}")
    return NoPicture(9)

  monkeypatch.setitem(open_source.OPENERS, "fake", open_fake)
  for name in ("miras_jax", "input_pipeline"):
    monkeypatch.setattr(logging.getLogger(name), "propagate", True)
  return folder.parent


def config(root, **changes):
  mixture = {"mixture": {"looks": 1, "words": 1}, "sources": {"words": "fake:words"}}
  base = {"batch_size": 4, "optim.accumulation": 2, "steps": 2}
  return config_for(root, **base | mixture | changes)


def rows_of(folder):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture
def mesh():
  """One device of the eight that tests have: it compiles sooner."""
  return mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1])


def restored(made, folder, mesh):
  """The task, where the last checkpoint of a folder left its data."""
  with jax.set_mesh(mesh), Checkpoints(folder.path, keep=3) as checkpoints:
    shapes, _ = plan.make_plan(made, mesh)
    _, _, data_state = checkpoints.restore(shapes)
  made.batches.set_state(data_state)
  return made


@pytest.mark.slow
def test_a_run_logs_each_source_and_goes_on_with_other_weights(
  root, tmp_path, mesh, caplog
):
  folder = workdir.Workdir(tmp_path / "run")
  before = config(root, **{"data.split_eval": ""})
  assert loop.train(task.make_task(before, folder), folder, mesh) == 0
  for row in rows_of(folder.path):
    assert (row["examples/looks"], row["examples/words"]) == (2, 2)
    weights = {"token_ce": 1.0, "mask_bce": 2.0, "dice": 0.5}
    wanted = sum(weight * row[f"{term}/looks"] for term, weight in weights.items())
    np.testing.assert_allclose(row["loss/looks"], wanted, rtol=1e-5)
    assert row["dice/words"] == 0 < row["loss/words"]
  after = config(root, mixture={"looks": 3, "words": 1}, **{"data.split_eval": ""})
  assert run_config.first_difference(before, after) is None
  made = restored(task.make_task(after, folder), folder, mesh)
  assert (next(made.batches)["source"] == 0).sum() == 3
  said = [r.getMessage() for r in caplog.records if "mixture" in r.getMessage()]
  assert said == [
    "the mixture changed: it was looks 1, words 1; from here on it is looks 3, words 1;"
    " each source goes on where it was"
  ]


def test_rows_without_masks_are_one_micro_batch(root, tmp_path):
  made = task.make_task(config(root), workdir.Workdir(tmp_path / "run"))
  assert made.objective.skip_maskless and made.objective.sources == ("looks", "words")
  for _ in range(4):
    valid = next(made.batches)["seg_valid"]
    assert valid[::2].any(1).all() and not valid[1::2].any()


def test_data_with_a_mask_in_every_row_keep_the_program_they_had(root, tmp_path):
  changes = {"mixture": {}, "data.dir": str(root / "looks")}
  made = task.make_task(config(root, **changes), workdir.Workdir(tmp_path / "run"))
  assert not made.objective.skip_maskless and not made.objective.sources
  assert "source" not in next(made.batches)


def test_held_out_is_what_has_such_a_split(root, caplog):
  with caplog.at_level(logging.INFO, "miras_jax"):
    _, held_out = sources.open_splits(config(root))
  assert held_out.names == ("looks",)
  assert "held out is nothing of words: words has no val" in caplog.text


def test_a_data_set_without_what_is_held_out_says_how_to_go_on(root):
  lacking = config(
    root, **{"mixture": {}, "data.dir": str(root / "looks"), "data.split_eval": "test"}
  )
  with pytest.raises(UserError, match="has only train, val; choose one with --config"):
    sources.open_splits(lacking)


def test_photographs_elsewhere_are_of_one_data_set(root):
  with pytest.raises(UserError, match="data.images_dir is of one data set"):
    config(root, **{"data.images_dir": "/photos"})


def test_a_mixture_is_made_on_the_command_line(tmp_path):
  def read(*fields):
    return config_file.read("miras_7b_stage2:size=tiny", fields)

  assert read().mixture == {"multiturn": 10, "vqa": 2}
  assert read(("mixture.vqa", "2.5")).mixture == {"multiturn": 10, "vqa": 2.5}
  assert read(("mixture", "a:1,b:2")).mixture == {"a": 1.0, "b": 2.0}
  assert read(("mixture", "none")).mixture == {}
  run = read(("mixture", "a:1"), ("sources.a", "tfds:~/a"))
  assert run.sources == {"a": "tfds:~/a"}
  path = tmp_path / "config.json"
  path.write_text(run.to_json())
  assert config_file.read(str(path)) == run


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_page_is_its_preset(stage):
  run = config_file.read(f"miras_7b_stage{stage}:size=tiny")
  again = config_file.read(f"miras_7b_stage{stage}", [("mixture", f"stage{stage}")])
  assert run.mixture == again.mixture and len(run.mixture) > 1
