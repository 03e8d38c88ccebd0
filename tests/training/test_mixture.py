"""A mixture of two folders becomes a task: one vocabulary, packed rows, both drawn."""

import jax
import numpy as np
import pytest

from input_pipeline.mixture import mix
from input_pipeline.open_source import open_source
from miras_jax.checkpoint import workdir
from miras_jax.config.settings import MeshConfig
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import plan, task
from tests import prist_files
from tests.training.test_task import config_for

WORDS = ("zebra crossing", "quartz clock")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """Two folders of six records on a photograph of their own, both called a.png."""
  roots = []
  for seed, words in enumerate(WORDS):
    root = tmp_path_factory.mktemp("data")
    records = [prist_files.record(answer=f"The {words} [SEG].") for _ in range(6)]
    image = prist_files.encode(prist_files.photo(seed=seed))
    roots.append(prist_files.write(root, records, split="train", image=image))
  return roots


def make(folders, workplace):
  changes = {"data.pack": 3, "data.max_masks": 3, "batch_size": 3, "data.dir": "-"}
  config = config_for(folders[0], **changes)
  source = mix([open_source(folder, "train") for folder in folders], [2, 1])
  return task.make_task_on(source, config, workdir.Workdir(workplace))


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
  return make(folders, tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def from_the_start(made):
  made.batches.set_state(made.batches.get_state() | {"next_index": 0})


def test_its_rows_are_packed_and_drawn_by_weight(made):
  batch = next(made.batches)
  records = made.batches.records(batch)
  assert len(records) == 9 and (batch["seg_valid"] == 1).all()
  assert sum(record < 6 for record in records) == 6


def test_a_row_holds_conversations_of_one_source(made):
  for row in range(len(made.batches.examples)):
    assert len({n // 6 for n in made.batches.examples.members(row)}) == 1


def test_its_batches_are_the_same_in_a_run_made_again(made, folders, tmp_path):
  again = make(folders, tmp_path)
  for _ in range(3):
    for ours, theirs in zip(*map(_leaves, (made.batches, again.batches)), strict=True):
      np.testing.assert_array_equal(ours, theirs)
  assert made.batches.get_state() == again.batches.get_state()


def _leaves(batches):
  return jax.tree.leaves(next(batches))


def test_its_vocabulary_is_learnt_from_all_sources(made):
  tokenizer = made.batches.examples.tokenizer
  for words in WORDS:
    assert len(tokenizer.encode(f" {words}")) < len(words) / 2


def test_the_training_step_takes_its_batches(made):
  mesh = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1])
  with jax.set_mesh(mesh):
    state, parts = plan.make_plan(made, mesh)
    step = plan.jit_train_step(parts, state)
    _, metrics = jax.eval_shape(step, state, next(made.batches))
  assert metrics["loss"].shape == () and "dice" in metrics
