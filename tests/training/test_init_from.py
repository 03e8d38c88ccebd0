"""Converted folders in use: a run that starts from one, and a talk with one."""

import dataclasses
import functools
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from configs import common
from miras_jax.checkpoint import workdir
from miras_jax.checkpoint.store import Checkpoints
from miras_jax.config import run as run_config
from miras_jax.config.settings import MeshConfig
from miras_jax.convert.folder import FolderTree, load_params
from miras_jax.errors import UserError
from miras_jax.inference import devices
from miras_jax.inference.load import load_for_inference, open_checkpoint
from miras_jax.inference.prepare import prepare
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.training import command as train
from miras_jax.training import init_from, loop, task
from miras_jax.training import step as train_step
from miras_jax.training.objective import MirasObjective
from miras_jax.training.plan import make_plan
from tests import golden_folder, prist_files
from tests.convert import golden_source


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
  """A checkpoint under its published names, of random numbers."""
  folder = tmp_path_factory.mktemp("golden") / "golden"
  return golden_folder.make(folder, golden_folder.PUBLIC_SIZES).path


@pytest.fixture(scope="module")
def converted(tmp_path_factory, golden):
  folder = tmp_path_factory.mktemp("converted")
  tokenizer = golden_source.save_tokenizer(folder / "tokenizer")
  return golden_source.convert(folder, tokenizer, golden)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  records = [prist_files.record(answer=f"It is here [SEG]{'.' * i}") for i in range(4)]
  return prist_files.write(root, records, split="train")


def config_for(data_dir, converted, **changes):
  c = common.base_config()
  c.model.overrides = {"llama": {"lora_rank": 2}}
  c.data.update(dict(dir=str(data_dir), split_eval="", system="Hi."))
  c.optim.update(dict(lr=1e-2, warmup_steps=0, ema=0.5))
  c.update(dict(steps=2, batch_size=2, checkpoint_every=2, init_from=str(converted)))
  c.loss.update(dict(preset="stage2_code", loss_resolution=32))
  c.update_from_flattened_dict(changes)
  return run_config.RunConfig.from_config_dict(c)


def plan(config, folder, **axes):
  """(task, shapes, parts, mesh) of a fresh run."""
  made = task.make_task(init_from.fitted(config), workdir.Workdir(folder))
  mesh_cfg = MeshConfig(**{"data": 1} | axes)
  count = mesh_cfg.data * mesh_cfg.fsdp
  devices = mesh_lib.make_mesh(mesh_cfg, jax.devices()[:count])
  return made, *make_plan(made, devices), devices


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir, converted):
  """A folder trained for two steps from the published weights."""
  folder = tmp_path_factory.mktemp("run")
  made, _, _, devices = plan(config_for(data_dir, converted), folder)
  assert loop.train(made, workdir.Workdir(folder), devices) == 0
  return folder


def flat(params):
  return flatten_dict(params, sep="/")


@pytest.mark.slow
def test_the_first_loss_is_that_of_the_published_weights(run, data_dir, converted):
  made = task.make_task(workdir_config(run), workdir.Workdir(run))
  plain = dataclasses.replace(made.config.model, overrides=overrides_of(converted))
  model = task.Miras(plain.build(), jnp.float32)
  objective = MirasObjective(model, made.config.loss, made.config.loss_resolution)
  params, _ = load_params(converted)
  state = train_step.create_state(params, {}, optax.sgd(0.0), seed=0)
  parts = train_step.Parts(objective=objective, tx=None)
  want = jax.jit(lambda s, b: train_step.eval_step(s, b, parts))(
    state, next(made.batches)
  )
  first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
  assert first["loss"] == pytest.approx(float(want["loss"]), abs=1e-5)
  assert first["token_ce"] == pytest.approx(float(want["token_ce"]), abs=1e-5)


def workdir_config(folder):
  return run_config.RunConfig.from_json((folder / "config.json").read_text())


def overrides_of(converted):
  with FolderTree(converted) as tree:
    return tree.config.model.overrides


def test_what_is_frozen_stays_published_and_what_trains_moves(run, converted):
  published = flat(load_params(converted)[0])
  params = flat(load_for_inference(run)[1])
  same = {k for k, x in published.items() if np.array_equal(x, params[k])}
  moved = published.keys() - same
  assert "sam/encoder/pos_embed" in same and "llm/layers/attn/q_proj/kernel" in same
  assert "llm/embed/embedding" in moved and "seg_prompt/text_fc1/kernel" in moved


def test_the_run_has_the_tokenizer_and_the_shapes_of_the_weights(run, converted):
  tokenizers = [f / "tokenizer/tokenizer.json" for f in (run, converted)]
  assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()
  cfg = workdir_config(run).model.build()
  assert (cfg.llama.vocab_size, cfg.llama.lora_rank) == (133, 2)
  assert cfg.sam_encoder.window_size == 3


def test_a_run_goes_on_without_the_folder(run, data_dir, converted, tmp_path):
  config = config_for(data_dir, converted, steps=5)
  found, step = train._compare_folder(config, workdir.Workdir(run))
  assert step == 2
  assert found.model == workdir_config(run).model
  other = dataclasses.replace(config, init_from=str(tmp_path))
  with pytest.raises(UserError, match="was trained with init_from="):
    train._compare_folder(other, workdir.Workdir(run))


def test_leaves_that_are_not_there_are_seeded_and_named(
  data_dir, converted, tmp_path, caplog
):
  made, shapes, parts, devices = plan(
    config_for(data_dir, converted), tmp_path, data=2, fsdp=4
  )
  with jax.set_mesh(devices), caplog.at_level(logging.INFO):
    state = init_from.load_state(made, shapes, parts.tx)
  line = next(r.getMessage() for r in caplog.records if "from seed 0" in r.getMessage())
  fresh = [k for k in flat(state.trainable) if "lora_" in k]
  assert len(fresh) == 4 and all(k in line for k in fresh)
  assert np.abs(flat(state.trainable)["llm/layers/attn/q_proj/lora_a"]).max() > 0
  assert not np.any(flat(state.trainable)["llm/layers/attn/q_proj/lora_b"])

  path = "llm/layers/mlp/up_proj/kernel"
  kernel, wanted = (flat(s.frozen)[path] for s in (state, shapes))
  assert (
    kernel.sharding == flat(shapes.frozen)["llm/layers/mlp/up_proj/kernel"].sharding
  )
  assert kernel.addressable_shards[0].data.size == kernel.size // 4
  for name in ("trainable", "opt_state", "ema"):
    placed = jax.tree.map(lambda x: x.sharding, getattr(state, name))
    assert placed == jax.tree.map(lambda x: x.sharding, getattr(shapes, name)), name
  for path, x in flat(state.ema).items():
    np.testing.assert_array_equal(x, flat(state.trainable)[path])


def test_published_weights_get_a_presence_token(data_dir, converted, tmp_path):
  own = {"llama": {"lora_rank": 2}, "sam_decoder": {"presence": True}}
  config = config_for(data_dir, converted, **{"model.overrides": own})
  made, shapes, parts, devices = plan(config, tmp_path)
  with jax.set_mesh(devices):
    found = flat(init_from.load_state(made, shapes, parts.tx).trainable)
  published = flat(load_params(converted)[0])
  assert "sam/decoder/presence_token" in found.keys() - published.keys()
  path = "sam/decoder/iou_token"
  np.testing.assert_array_equal(found[path], published[path])


def save_moved(made, shapes, parts, devices, folder):
  """A checkpoint of what `init_from` begins with, every weight moved a little."""
  place = workdir.Workdir(folder)
  keep = Checkpoints(place.path, keep=1, tokenizer=made.tokenizer)
  with jax.set_mesh(devices), keep as checkpoints:
    state = init_from.load_state(made, shapes, parts.tx)
    moved = jax.tree.map(lambda x: x + jnp.asarray(0.01, x.dtype), state.trainable)
    checkpoints.save_frozen(state.frozen)
    state = dataclasses.replace(state, trainable=moved, ema=moved)
    checkpoints.save(1, state, data_state={}, metrics={})
  workdir.write_atomically(place.config, made.config.to_json())


def test_a_dense_state_gets_tokens_and_keeps_its_own(data_dir, converted, tmp_path):
  """Its masks are made again from their tokens from then on."""
  half = config_for(data_dir, converted, **{"model.state": "dense"})
  save_moved(*plan(half, tmp_path / "half"), tmp_path / "half")
  config = config_for(data_dir, tmp_path / "half", **{"model.state": "both"})
  made, shapes, parts, devices = plan(config, tmp_path / "both")
  with jax.set_mesh(devices):
    found = flat(init_from.load_state(made, shapes, parts.tx).trainable)
  saved = flat(load_params(tmp_path / "half")[0])
  kept = {k for k in saved if k.startswith("state/")} - found.keys()
  assert kept == {"state/again/kernel", "state/again/bias"}
  for path in ("state/gates", "seg_prompt/text_fc1/kernel"):
    np.testing.assert_array_equal(found[path], saved[path])
  assert "state_tokens/again/kernel" in found
  more = {"model.state": "both", "model.state_slots": 3}
  with pytest.raises(UserError, match="say --config.model.state_slots=8"):
    init_from.fitted(config_for(data_dir, tmp_path / "half", **more))


@pytest.mark.parametrize(
  "path, end",
  [
    ("seg_prompt/text_fc1/bias", "$"),
    ("llm/layers/attn/q_proj/lora_a", ".*merge-lora"),
  ],
)
def test_a_leaf_without_a_place_is_named_with_its_folder(
  path, end, run, data_dir, tmp_path
):
  made, shapes, parts, _ = plan(config_for(data_dir, run), tmp_path)
  *parents, name = path.split("/")
  del functools.reduce(dict.get, parents, shapes.trainable)[name]
  reason = f"^{run}: '{path}' has no place in this model{end}"
  with pytest.raises(UserError, match=reason):
    init_from.load_state(made, shapes, parts.tx)


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"model.variant": "small"}, "holds 'tiny'; say --config.model.variant=tiny"),
    (
      {"model.overrides": {"llama": {"rope_theta": 5e5}}},
      "model.overrides.llama.rope_theta=500000.0, but .* has 10000.0; leave it out",
    ),
    ({"data.tokenizer": "other"}, "data.tokenizer=.*other gives other ids than"),
    ({"init_from": "/no/where"}, "/no/where"),
  ],
)
def test_a_run_that_disagrees_is_one_line(
  data_dir, converted, tmp_path, changes, words
):
  if "data.tokenizer" in changes:
    from tests.convert import checkpoints

    changes = {"data.tokenizer": str(checkpoints.tokenizer(tmp_path / "other"))}
  with pytest.raises(UserError, match=words) as error:
    init_from.fitted(config_for(data_dir, converted, **changes))
  assert "\n" not in str(error.value)


def test_a_part_that_the_folder_lacks_is_named(data_dir, converted, tmp_path):
  config = config_for(data_dir, converted)
  made, shapes, parts, devices = plan(config, tmp_path)
  shapes.frozen["sam"]["encoder"]["more"] = jax.ShapeDtypeStruct((1,), jnp.float32)
  with pytest.raises(UserError, match="no 'sam/encoder/more', which this model has"):
    init_from.load_state(made, shapes, parts.tx)


def test_a_folder_without_a_tokenizer_wants_one_that_fits(data_dir, golden, tmp_path):
  bare = golden_source.convert(tmp_path, "none", golden)
  with pytest.raises(UserError, match="no tokenizer/; name the one of its weights"):
    init_from.fitted(config_for(data_dir, bare))
  with pytest.raises(UserError, match="convert the weights with --tokenizer=PATH"):
    open_checkpoint(bare)
  from tests.convert import checkpoints

  large = checkpoints.tokenizer(tmp_path / "large")
  with pytest.raises(UserError, match="has 300 ids, the embedding of .* 133 rows"):
    init_from.fitted(config_for(data_dir, bare, **{"data.tokenizer": str(large)}))


def test_a_converted_folder_can_be_talked_to(converted):
  loaded = open_checkpoint(converted)
  assert (loaded.step, loaded.log) == (0, None)
  assert loaded.data.max_len == 2048 and loaded.data.num_image_tokens == 16
  assert loaded.tokenizer.ids.seg == 128
  _, want = prepare(loaded.config.model.build(), load_params(converted)[0])
  want = flat(want)
  for path, x in flat(loaded.params).items():
    np.testing.assert_array_equal(x, want[path])


def test_a_folder_opens_cut_over_a_mesh(converted):
  mesh = devices.make(devices.parse("data:2,fsdp:2,tensor:2"))
  loaded = open_checkpoint(converted, mesh=mesh)
  up = loaded.params["llm"]["layer_0"]["mlp"]["up_proj"]["kernel"]
  assert up.sharding.spec == jax.sharding.PartitionSpec("fsdp", "tensor")
  assert up.addressable_shards[0].data.size == up.size // 4
