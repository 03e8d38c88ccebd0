"""A row of the table is a new input: everywhere a batch is made, it is there."""

import jax
import numpy as np
import pytest

from configs import common
from input_pipeline import batch_table
from input_pipeline.batch_table import Array
from input_pipeline.conversation import encode_conversation, plain_texts
from input_pipeline.examples import empty_example, pad_row
from input_pipeline.pipeline import make_pipeline
from input_pipeline.tokenizer import train_bpe
from miras_jax.benchmarks.step import full_batch
from miras_jax.config.run import RunConfig
from miras_jax.models import flops, miras
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.scale import programs
from miras_jax.training import features
from tests.input_pipeline.fakes import CFG, Source, turns

# Two inputs that do not exist: one number a token, one picture a mask.
NEW = {
  "mood": Array(("B", "T"), np.dtype("int32"), 7),
  "sketch": Array(("B", "M", "S", "S"), np.dtype("uint8"), "M"),
}


@pytest.fixture(scope="module")
def tokenizer():
  return train_bpe(plain_texts(turns(0)), 400)


@pytest.fixture(scope="module")
def config():
  c = common.base_config()
  c.batch_size = 4
  c.data.max_len = 32
  return RunConfig.from_config_dict(c)


@pytest.fixture
def new_rows(monkeypatch):
  for name, array in NEW.items():
    monkeypatch.setitem(batch_table.TABLE, name, array)


def assert_filled(arrays, lead=()):
  """Both new inputs are there, of CFG's shapes and full of their fill."""
  assert arrays["mood"].shape == (*lead, CFG.max_len)
  assert arrays["sketch"].shape == (*lead, CFG.max_masks, CFG.sam_size, CFG.sam_size)
  assert (arrays["mood"] == 7).all() and (arrays["sketch"] == CFG.max_masks).all()
  assert all(arrays[name].dtype == array.dtype for name, array in NEW.items())


def test_a_new_row_is_in_padded_rows(new_rows, tokenizer):
  encoded = encode_conversation(turns(0), tokenizer, num_image_tokens=4)
  row = pad_row(encoded, tokenizer, CFG)
  assert (row["mood"] == 7).all() and row["mood"].shape == (CFG.max_len,)
  assert "sketch" not in row  # pixels are no part of a row


def test_a_new_row_is_in_examples_of_zero_weight(new_rows, tokenizer):
  assert_filled(empty_example(tokenizer, CFG, record=3))


@pytest.mark.parametrize("cache", [False, True])
def test_a_new_row_is_in_batches(new_rows, tokenizer, cache):
  source = Source(4, bad=(1,))
  batch = next(
    make_pipeline(source, tokenizer, CFG, batch_size=4, report=str, cache=cache)
  )
  assert_filled(batch, lead=(4,))


def test_a_new_row_is_in_dummy_and_benchmark_batches(new_rows, config):
  cfg = config.model.build()
  for batch in (
    miras.dummy_batch(cfg, batch_size=4, length=32, max_masks=2),
    full_batch(cfg, config),
  ):
    side = cfg.sam_encoder.image_size
    assert batch["mood"].shape == (4, 32) and batch["sketch"].shape == (
      4,
      2,
      side,
      side,
    )
    assert (batch["mood"] == 7).all() and (batch["sketch"] == 2).all()


def test_a_new_row_is_in_the_abstract_batch_that_scale_compiles(new_rows, config):
  mesh = mesh_lib.make_mesh(config.mesh)
  dummy = miras.dummy_batch(config.model.build(), batch_size=4, length=32, max_masks=2)
  found = programs.batch_shapes(config, mesh)
  assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
    k: (v.shape, v.dtype) for k, v in dummy.items()
  }
  assert found["mood"].sharding == sharding.batch_sharding(mesh, "mood")


def test_a_sharding_follows_the_letters_of_the_row(new_rows, config, monkeypatch):
  mesh = mesh_lib.make_mesh(config.mesh)
  alike = {
    str(s.spec) for s in sharding.batch_shardings(mesh, batch_table.names()).values()
  }
  assert alike == {str(jax.sharding.PartitionSpec(mesh_lib.BATCH_AXES))}
  monkeypatch.setitem(sharding.BATCH_RULES, "T", "sequence")
  spec = sharding.batch_sharding(mesh, "mood").spec
  assert spec == jax.sharding.PartitionSpec(mesh_lib.BATCH_AXES, "sequence")


def test_a_new_token_row_reaches_the_prompts_of_generation(new_rows):
  assert "mood" in batch_table.prompt_names()
  assert not {"loss_mask", "seg_pos", "sketch"} & set(batch_table.prompt_names())


def test_a_feature_takes_the_place_of_its_pixels():
  assert "image_sam" not in batch_table.names(["sam_features"])
  assert "image_aux" in batch_table.names(["sam_features"])
  assert batch_table.pixel_names(["sam_features"]) == ["image_aux"]
  assert not set(batch_table.feature_names()) & set(batch_table.names())


def test_every_feature_has_its_parameters_and_its_flops():
  known = set(batch_table.feature_names())
  assert set(features.PARTS) == set(flops.FEATURES) == known


def test_the_manifest_of_a_cache_has_the_shapes_of_the_table(config):
  cfg = config.model.build()
  shapes = features.make_manifest(config, ["image_tokens", "sam_features"], {})
  grid, width = cfg.sam_encoder.grid, cfg.sam_encoder.out_width
  assert shapes["features"] == {
    "image_tokens": [cfg.num_image_tokens, cfg.llama.width],
    "sam_features": [grid, grid, width],
  }


def test_a_shape_gives_back_its_lengths():
  assert batch_table.sizes_of("sam_features", (4, 4, 8)) == {"G": 4, "C": 8}
  for wrong in [(4, 5, 8), (4, 8)]:
    with pytest.raises(ValueError):
      batch_table.sizes_of("sam_features", wrong)


def test_values_that_do_not_fit_are_refused():
  with pytest.raises(ValueError):
    batch_table.padded("tokens", [1] * 5, {"T": 4, "pad": 0})


def test_an_example_and_a_model_agree_on_every_length(config, tokenizer):
  model = miras.batch_sizes(config.model.build(), length=96, max_masks=2)
  letters = set(CFG.sizes(pad=0))
  assert letters <= set(model)
  wanted = {a for array in batch_table.TABLE.values() for a in array.axes}
  assert {a for a in wanted if isinstance(a, str)} <= set(model)
