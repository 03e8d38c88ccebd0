"""From a config and a folder of conversations to something that trains."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from input_pipeline.tokenizer import load_tokenizer
from miras_jax.checkpoint import workdir
from miras_jax.config import run as run_config
from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.inference.conversation import Conversation
from miras_jax.inference.load import load_for_inference, open_checkpoint
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.training import loop, sizes, task
from tests import prist_files
from tests.host_params import host_params

# The tiny model with one block of everything: it compiles in seconds.
MICRO = {
  "clip": {"depth": 1, "select_layer": -1},
  "llama": {"depth": 1, "width": 32, "mlp_width": 32, "head_dim": 8, "lora_rank": 2},
  "sam_encoder": {"depth": 1, "global_layers": (), "width": 32},
  "sam_decoder": {"depth": 1},
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  answers = ("Sure, [SEG].", "It is the cup [SEG] on the table.", "Here: [SEG]")
  records = [prist_files.record(answer=answers[i % 3]) for i in range(8)]
  prist_files.write(root, records, split="train")
  return prist_files.write(root, records[:4], split="val")


def config_for(data_dir, **changes):
  c = common.base_config()
  c.model.overrides = MICRO
  c.data.update(dict(dir=str(data_dir), vocab_size=400, in_memory=True))
  c.optim.update(dict(lr=1e-2, warmup_steps=0))
  c.update(dict(steps=3, batch_size=8, checkpoint_every=3, probe_every=3))
  c.loss.loss_resolution = 16
  c.update_from_flattened_dict(changes)
  return run_config.RunConfig.from_config_dict(c)


def make(config, folder):
  return task.make_task(config, workdir.Workdir(folder))


def test_a_run_that_never_began_leaves_no_tokenizer_to_the_next(data_dir, tmp_path):
  make(config_for(data_dir), tmp_path)
  again = make(config_for(data_dir, **{"data.vocab_size": 300}), tmp_path)
  assert load_tokenizer(tmp_path / "tokenizer").vocab_size <= 300
  assert again.config.model.build().llama.vocab_size < 400


def test_a_damaged_step_keeps_its_tokenizer(data_dir, tmp_path):
  make(config_for(data_dir), tmp_path)
  before = (tmp_path / "tokenizer/tokenizer.json").read_bytes()
  (tmp_path / "checkpoints/3.damaged").mkdir(parents=True)
  make(config_for(data_dir, **{"data.vocab_size": 300}), tmp_path)
  assert (tmp_path / "tokenizer/tokenizer.json").read_bytes() == before


def test_the_tokenizer_is_trained_once_and_kept(data_dir, tmp_path):
  config = config_for(data_dir)
  made = make(config, tmp_path)
  step = tmp_path / "checkpoints/3"
  step.mkdir(parents=True)
  (step / "_CHECKPOINT_METADATA").write_text('{"commit_timestamp_nsecs": 1}')
  first = (tmp_path / "tokenizer/tokenizer.json").read_bytes()
  again = make(dataclasses.replace(config, seed=5), tmp_path)
  assert (tmp_path / "tokenizer/tokenizer.json").read_bytes() == first
  ids = load_tokenizer(tmp_path / "tokenizer").vocab_size
  rows = again.config.model.build().llama.vocab_size
  assert rows == made.config.model.build().llama.vocab_size
  assert ids <= rows < ids + sharding.VOCAB_MULTIPLE


def test_rows_are_as_long_as_the_longest_conversation(data_dir, tmp_path):
  made = make(config_for(data_dir), tmp_path)
  batch = next(made.batches)
  used = (batch["segments"] > 0).sum(1).max()
  length = batch["tokens"].shape[1]
  assert length == made.config.data.max_len
  assert used <= length < used + sizes.LENGTH_MULTIPLE


def test_packed_rows_hold_several_conversations_and_a_talk_stays_short(
  data_dir, tmp_path
):
  changes = {"data.pack": 3, "data.max_masks": 3, "batch_size": 2}
  made = make(config_for(data_dir, **changes), tmp_path)
  batch, data = next(made.batches), made.config.data
  assert len(made.batches.records(batch)) == batch["seg_valid"].sum() > 4
  assert batch["tokens"].shape[1] == data.max_len > 2 * data.talk_len - 64
  assert task.talk_config(made.config).max_len == data.talk_len < data.max_len
  assert task.talk_config(made.config).max_masks == 1


def test_a_run_changes_its_pictures_and_not_its_probe(data_dir, tmp_path):
  changes = {"augment.crop": 1.0, "augment.crop_share": 0.3, "data.in_memory": False}
  plain = make(config_for(data_dir), tmp_path)
  other = make(config_for(data_dir, **changes), tmp_path)
  np.testing.assert_array_equal(plain.probe["image_sam"], other.probe["image_sam"])
  before, after = next(plain.batches), next(other.batches)
  np.testing.assert_array_equal(before["tokens"], after["tokens"])
  assert (before["valid_hw"] != after["valid_hw"]).any()
  assert (after["masks"].sum((2, 3)) > before["masks"].sum((2, 3))).any()


def test_an_unfit_file_of_words_is_told_before_a_run_starts(data_dir, tmp_path):
  changes = {"augment.flip": 1.0, "augment.words": "no.json", "data.in_memory": False}
  with pytest.raises(UserError, match="no.json: no such file of words"):
    make(config_for(data_dir, **changes), tmp_path)


def test_a_given_length_is_kept(data_dir, tmp_path):
  made = make(config_for(data_dir, **{"data.max_len": 200}), tmp_path)
  assert next(made.batches)["tokens"].shape == (8, 200)


def test_limit_trains_on_the_first_conversations_only(data_dir, tmp_path):
  made = make(config_for(data_dir, **{"data.limit": 2}), tmp_path)
  seen = {int(r) for _ in range(3) for r in next(made.batches)["record"]}
  assert seen == {0, 1}
  whole = make(config_for(data_dir), tmp_path)
  with pytest.raises(UserError, match="another data set"):
    whole.batches.set_state(made.batches.get_state())


def test_the_probe_is_held_out_and_one_batch(data_dir, tmp_path):
  made = make(config_for(data_dir), tmp_path)
  np.testing.assert_array_equal(made.probe["record"], [0, 1, 2, 3, -1, -1, -1, -1])
  without = make(config_for(data_dir, **{"data.split_eval": ""}), tmp_path)
  assert without.probe is None


@pytest.mark.parametrize(
  "field, value, words",
  [
    ("data.split_train", "trane", ("trane", "train")),
    ("data.template", "lama", ("'lama'", "llava_v1")),
    ("data.view", "round", ("'round'", "letterbox")),
    ("data.tokenizer", "/nowhere", ("/nowhere",)),
    ("data.vocab_size", 100, ("100",)),
    ("loss.loss_resolution", 48, ("48",)),
    ("model.overrides.llama.vocab_size", 100, ("vocab_size=100", "leave it out")),
  ],
)
def test_an_unfit_value_is_one_line(data_dir, tmp_path, field, value, words):
  overrides = json.loads(json.dumps(MICRO))
  changes = {field: value}
  if field.startswith("model."):
    overrides["llama"]["vocab_size"] = changes.pop(field)
  with pytest.raises(UserError) as error:
    config = config_for(data_dir, **changes)
    if field.startswith("model."):
      model = dataclasses.replace(
        config.model, overrides=config.model.overrides | {"llama.vocab_size": value}
      )
      config = dataclasses.replace(config, model=model)
    make(config, tmp_path)
  assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
  "encoder, path",
  [
    ("sam_only", ("sam", "encoder", "neck", "conv1", "kernel")),
  ],
)
def test_a_run_of_fewer_encoders_is_trained_saved_and_talked_to(
  data_dir, tmp_path, encoder, path
):
  changes = {"model.encoder": encoder, "data.view": "center_crop"}
  config = config_for(
    data_dir, trainable="full", steps=1, **changes, **{"data.split_eval": ""}
  )
  made = make(config, tmp_path)
  start = host_params(made.init)
  made = made._replace(init=lambda _: jax.tree.map(jnp.asarray, start))
  mesh = mesh_lib.make_mesh(MeshConfig(), jax.devices()[:1])
  assert loop.train(made, workdir.Workdir(tmp_path), mesh) == 0
  loaded = open_checkpoint(tmp_path)
  assert (loaded.model.cfg.encoder, loaded.model.view) == (encoder, "center_crop")
  before, after = (
    functools.reduce(dict.get, path, tree) for tree in (start, loaded.params)
  )
  assert (before != after).any()
  image = prist_files.encode(prist_files.photo())
  talk = Conversation(loaded, loaded.generator(4), image)
  assert isinstance(talk.say("Where is the cup?").text, str)


@pytest.mark.slow
def test_the_model_trains_alike_on_one_and_eight_devices(data_dir, tmp_path):
  losses, parameters, start = {}, {}, None
  mix = {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2}
  for devices, axes in ((1, {}), (8, mix)):
    changes = {"data.split_eval": "", "trainable": "lora_heads"}
    config = config_for(data_dir, **changes)
    folder = tmp_path / str(devices)
    made = make(config, folder)
    start = start or host_params(made.init)
    made = made._replace(init=lambda _, start=start: jax.tree.map(jnp.asarray, start))
    mesh = mesh_lib.make_mesh(MeshConfig(**axes), jax.devices()[:devices])
    loop.train(made, workdir.Workdir(folder), mesh)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    losses[devices] = [json.loads(line)["loss"] for line in lines]
    parameters[devices] = load_for_inference(folder)[1]
  assert losses[1][2] < losses[1][0]
  np.testing.assert_allclose(losses[8], losses[1], rtol=1e-5)
  for part in ("clip", "convnext", "projector"):
    for params in parameters.values():
      same = jax.tree.map(np.array_equal, params[part], start[part])
      assert all(jax.tree.leaves(same))
