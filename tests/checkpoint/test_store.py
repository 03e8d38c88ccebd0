"""Checkpoints: whole or absent, checked when read, and every mistake is one line."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from miras_jax import cli
from miras_jax.checkpoint import command as checkpoint_command
from miras_jax.checkpoint import fingerprint, lock, reading, workdir
from miras_jax.checkpoint.store import Checkpoints
from miras_jax.config.run import RunConfig
from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.inference.load import load_for_inference
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.training import step as train_step
from tests import toy

RULES = ((r"kernel$", jax.sharding.PartitionSpec("fsdp", "tensor")),)


def make_state(seed=0, ema=0.0, width=8):
  params = toy.params(seed, width)
  frozen = {"clip": jax.tree.map(lambda x: x.astype(jnp.bfloat16), params["clip"])}
  return train_step.create_state(
    {"llm": params["llm"]}, frozen, optax.adamw(1e-2), seed=seed, ema=ema
  )


def shapes_of(state, devices=1, **axes):
  mesh = mesh_lib.make_mesh(MeshConfig(**axes), jax.devices()[:devices])
  shapes = jax.eval_shape(lambda: state)
  placed = sharding.state_shardings(shapes, mesh, RULES)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, placed
  )


def save(folder, *steps, state=None, keep=10):
  state = make_state() if state is None else state
  with Checkpoints(folder, keep=keep) as checkpoints:
    checkpoints.save_frozen(state.frozen)
    for step in steps:
      now = state.replace(step=jnp.int32(step))
      checkpoints.save(
        step, now, data_state={"next": step * 16}, metrics={"loss": 1 / step}
      )
  return state


def equal(a, b):
  return all(
    np.array_equal(x, y) and x.dtype == y.dtype
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def array_files(folder):
  """The files that hold the values of a step."""
  return sorted(
    (p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: -p.stat().st_size
  )


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_restored_state_is_bit_identical(tmp_path, ema):
  state = save(tmp_path, 3, 6, state=make_state(ema=ema))
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    restored, step, data = checkpoints.restore(shapes_of(state))
  assert step == 6 and data == {"next": 96}
  assert equal(restored, state.replace(step=jnp.int32(6)))


def test_a_checkpoint_restores_onto_another_mesh(tmp_path):
  state = save(tmp_path, 1)
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    wanted = shapes_of(state, 8, data=1, fsdp=4, tensor=2)
    restored, _, _ = checkpoints.restore(wanted)
  assert equal(restored, state.replace(step=jnp.int32(1)))
  spec = restored.trainable["llm"]["kernel"].sharding.spec
  assert spec == jax.sharding.PartitionSpec("fsdp", "tensor")


def test_nothing_to_restore_is_none(tmp_path):
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    assert checkpoints.restore(shapes_of(make_state())) is None


def test_keep_counts_steps_and_spares_the_frozen_parameters(tmp_path):
  save(tmp_path, 1, 2, 3, 4, keep=2)
  folder = workdir.Workdir(tmp_path)
  assert folder.steps() == [3, 4] and folder.frozen.is_dir()


def test_frozen_parameters_are_written_once(tmp_path):
  save(tmp_path, 1)
  written = (tmp_path / "checkpoints/frozen/meta/metadata").stat().st_mtime_ns
  save(tmp_path, 2)
  assert (tmp_path / "checkpoints/frozen/meta/metadata").stat().st_mtime_ns == written


def test_another_shape_is_one_line_naming_the_path(tmp_path):
  save(tmp_path, 1)
  other = make_state()
  other = other.replace(trainable={"llm": {"kernel": jnp.zeros((16, 5))}})
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    with pytest.raises(UserError, match=r"trainable/llm/kernel .*\[16, 4\].*\[16, 5\]"):
      checkpoints.restore(shapes_of(other))


def test_another_frozen_tower_is_one_line_naming_the_path(tmp_path):
  save(tmp_path, 1)
  with Checkpoints(tmp_path, keep=2) as checkpoints:
    with pytest.raises(UserError, match=r"frozen .*params/clip/kernel"):
      checkpoints.restore(shapes_of(make_state(width=9)))


def flip_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


@pytest.mark.parametrize("harm", [flip_bit, lambda p: p.write_bytes(b"")])
def test_a_damaged_step_is_set_aside_and_the_one_before_it_used(tmp_path, harm):
  state = save(tmp_path, 1, 2)
  for path in array_files(tmp_path / "checkpoints/2/state"):
    harm(path)
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    restored, step, _ = checkpoints.restore(shapes_of(state))
    assert step == 1 and equal(restored.trainable, state.trainable)
    checkpoints.save(2, state, data_state={}, metrics={})
  assert (tmp_path / "checkpoints/2.damaged").is_dir()
  assert workdir.Workdir(tmp_path).steps() == [1, 2]


def test_changed_metadata_is_damage_too(tmp_path):
  state = save(tmp_path, 1, 2)
  path = tmp_path / "checkpoints/2/meta/metadata"
  path.write_text(path.read_text().replace('"next": 32', '"next": 33'))
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    assert checkpoints.restore(shapes_of(state))[1] == 1


def test_only_damaged_steps_is_one_line(tmp_path):
  state = save(tmp_path, 1)
  (tmp_path / "checkpoints/1/meta/metadata").write_text("{}")
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    with pytest.raises(UserError, match="every checkpoint"):
      checkpoints.restore(shapes_of(state))


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
  save(tmp_path, 1)
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
  with pytest.raises(UserError, match=r"disk full: checkpoint 2 .*free some space"):
    save(tmp_path, 2)
  assert workdir.Workdir(tmp_path).steps() == [1]


def test_a_disk_that_fills_up_while_saving_leaves_no_half_checkpoint(
  tmp_path, monkeypatch
):
  state = save(tmp_path, 1)
  checkpoints = Checkpoints(tmp_path, keep=5)

  def fail(*args, **kwargs):
    half = tmp_path / f"checkpoints/2{workdir.TEMPORARY}-1"
    half.mkdir()
    raise ValueError("RESOURCE") from OSError(28, "No space left on device")

  monkeypatch.setattr(checkpoints.manager, "save", fail)
  with pytest.raises(UserError, match="disk full"):
    checkpoints.save(2, state, data_state={}, metrics={})
  names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert {n for n in names if n[0].isdigit()} == {"1"}


def test_a_killed_save_is_no_checkpoint(tmp_path):
  save(tmp_path, 1, 2)
  checkpoints = tmp_path / "checkpoints"
  (checkpoints / "2").rename(checkpoints / f"2{workdir.TEMPORARY}-7")
  assert workdir.Workdir(tmp_path).steps() == [1]
  with Checkpoints(tmp_path, keep=5):
    pass
  assert not list(checkpoints.glob(f"*{workdir.TEMPORARY}*"))


@pytest.fixture
def trained(tmp_path):
  """A folder as `miras train` leaves it: two steps and a config."""
  state = save(tmp_path, 1, 2)
  config = RunConfig.from_config_dict(common.base_config())
  (tmp_path / "config.json").write_text(config.to_json())
  return tmp_path, state, config


@pytest.mark.parametrize(
  "part, step", [("", 2), ("checkpoints", 2), ("checkpoints/1", 1)]
)
def test_inference_loads_config_and_all_parameters(trained, part, step):
  folder, state, config = trained
  loaded = load_for_inference(folder / part)
  assert loaded[0] == config and loaded[2:] == (folder / "tokenizer", step)
  assert equal(loaded[1], {**state.trainable, **state.frozen})


def test_inference_prefers_the_moving_average(tmp_path):
  state = make_state(ema=0.5)
  state = state.replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
  save(tmp_path, 1, state=state)
  config = RunConfig.from_config_dict(common.base_config())
  (tmp_path / "config.json").write_text(config.to_json())
  _, params, _, _ = load_for_inference(tmp_path)
  assert equal(params["llm"], state.ema["llm"])


@pytest.mark.parametrize("part", ["nowhere", "."])
def test_a_folder_without_checkpoints_is_one_line(tmp_path, part):
  with pytest.raises(UserError, match="checkpoint"):
    load_for_inference(tmp_path / part)


def test_adapters_alone_are_read_and_nothing_else(tmp_path):
  state = make_state()
  kernel = state.trainable["llm"]["kernel"]
  both = {"llm": {"lora_a": jnp.ones((4, 2)), "kernel": kernel}}
  state = train_step.create_state(both, state.frozen, optax.adamw(1e-2), seed=0)
  save(tmp_path, 3, state=state)
  shutil.rmtree(tmp_path / "checkpoints/frozen")
  params, step = reading.load_part(tmp_path, (r"/lora_[ab]$",))
  assert step == 3 and list(params) == ["llm"] and list(params["llm"]) == ["lora_a"]
  assert equal(params["llm"]["lora_a"], both["llm"]["lora_a"])
  with pytest.raises(UserError, match="no trained parameter has"):
    reading.load_part(tmp_path, ("nothing",))


def test_a_step_that_lost_its_mark_is_set_aside(tmp_path):
  state = save(tmp_path, 1, 2)
  (tmp_path / "checkpoints/2/_CHECKPOINT_METADATA").write_text("{")
  with Checkpoints(tmp_path, keep=5) as checkpoints:
    assert checkpoints.restore(shapes_of(state))[1] == 1
  assert (tmp_path / "checkpoints/2.damaged").is_dir()


def test_prune_deletes_what_killed_saves_and_damaged_steps_left(trained, capsys):
  folder, _, _ = trained
  (folder / "checkpoints/7.damaged").mkdir()
  (folder / f"checkpoints/9{workdir.TEMPORARY}-1").mkdir()
  assert cli.main(["checkpoint", "prune", str(folder), "--keep=2"]) == 0
  names = {p.name for p in (folder / "checkpoints").iterdir()}
  assert names == {"1", "2", "frozen"}
  assert "steps left: 1, 2" in capsys.readouterr().out


def test_verify_names_a_step_that_is_not_there(trained):
  with pytest.raises(UserError, match="no complete step 5"):
    cli.main(["checkpoint", "verify", str(trained[0]), "--step=5"])


def test_verify_lists_what_is_damaged_and_fails(trained, capsys):
  folder, _, _ = trained
  assert checkpoint_command.main(["verify", str(folder)]) == 0
  for path in array_files(folder / "checkpoints/1/state"):
    flip_bit(path)
  assert checkpoint_command.main(["verify", str(folder)]) == 1
  lines = capsys.readouterr().out.splitlines()[-3:]
  assert "DAMAGED" in lines[0] and lines[1].split() == ["2", "whole"]


def test_prune_leaves_the_newest(trained, capsys):
  folder, _, _ = trained
  assert cli.main(["checkpoint", "prune", str(folder), "--keep=1"]) == 0
  assert workdir.Workdir(folder).steps() == [2]


def test_prune_never_leaves_a_damaged_step_alone(trained, capsys):
  folder, _, _ = trained
  for path in array_files(folder / "checkpoints/2/state"):
    flip_bit(path)
  assert cli.main(["checkpoint", "prune", str(folder), "--keep=1"]) == 0
  assert workdir.Workdir(folder).steps() == [1]
  for path in array_files(folder / "checkpoints/1/state"):
    flip_bit(path)
  with pytest.raises(UserError, match="no step is whole; nothing was deleted"):
    cli.main(["checkpoint", "prune", str(folder), "--keep=1"])
  assert workdir.Workdir(folder).steps() == [1]


def test_a_step_folder_is_verified_alone_and_not_pruned(trained, capsys):
  step = trained[0] / "checkpoints/1"
  assert checkpoint_command.main(["verify", str(step)]) == 0
  assert capsys.readouterr().out.split() == ["1", "whole"]
  with pytest.raises(UserError, match="checkpoints/1 is one step; prune takes"):
    checkpoint_command.main(["prune", str(step)])


def test_list_shows_step_and_loss(trained, capsys):
  folder, _, _ = trained
  checkpoint_command.main(["list", str(folder)])
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert [row[0] for row in rows] == ["1", "2", "frozen"]
  assert "0.5000" in rows[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint32", "bool"])
def test_every_flipped_bit_changes_the_fingerprint(dtype, monkeypatch):
  monkeypatch.setattr(fingerprint, "_is_on_host", lambda leaf: False)
  value = np.array(jnp.arange(24).reshape(4, 6).astype(dtype))
  original = fingerprint.table({"x": value})["x"]
  bits = value.view(np.uint8 if dtype != "bool" else np.bool_)
  for index in np.ndindex(bits.shape):
    changed = value.copy()
    view = changed.view(bits.dtype)
    view[index] = not view[index] if dtype == "bool" else view[index] ^ 0x10
    assert fingerprint.table({"x": changed})["x"] != original


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint32", "bool"])
def test_the_host_counts_as_the_devices_do(dtype, monkeypatch):
  monkeypatch.setattr(fingerprint, "HOST_PART", 7)
  value = np.array(jnp.arange(24).reshape(4, 6).astype(dtype))
  tree = {"x": value, "turned": value.T}
  on_host = fingerprint.table(tree)
  monkeypatch.setattr(fingerprint, "_is_on_host", lambda leaf: False)
  assert fingerprint.table(tree) == on_host


def test_verify_reads_one_leaf_at_a_time_and_uses_no_device(trained, monkeypatch):
  groups = []
  host_arrays = reading._host_arrays

  def counted(folder, saved, leaves):
    arrays = host_arrays(folder, saved, leaves)
    groups.append(sorted(arrays))
    return arrays

  monkeypatch.setattr(reading, "HOST_BYTES", 1)
  monkeypatch.setattr(reading, "_host_arrays", counted)
  monkeypatch.setattr(fingerprint, "_sums", lambda _: pytest.fail("on a device"))
  folder = workdir.Workdir(trained[0])
  reading.verify(folder.step(2))
  assert groups == [[name] for name in reading.read_table(folder.step(2))]


def test_a_step_that_is_rotated_out_meanwhile_gives_the_next(trained, monkeypatch):
  folder = workdir.Workdir(trained[0])
  locate = workdir.locate
  late = iter([(folder, 1), None])

  def look(checkpoint):
    if found := next(late):
      shutil.rmtree(folder.step(1))
      return found
    return locate(checkpoint)

  monkeypatch.setattr(workdir, "locate", look)
  assert reading.load_run(trained[0])[3] == 2


def test_a_step_of_another_tokenizer_is_refused(tmp_path):
  state = make_state()
  with Checkpoints(tmp_path, keep=1, tokenizer="a1") as checkpoints:
    checkpoints.save(1, state, data_state={}, metrics={})
  with Checkpoints(tmp_path, keep=1, tokenizer="b2") as checkpoints:
    with pytest.raises(UserError, match="tokenizer gives other ids .* step 1"):
      checkpoints.restore(shapes_of(state))


def test_a_folder_in_use_is_not_pruned(trained):
  with lock.hold(trained[0], "miras train"), pytest.raises(UserError, match="prune it"):
    cli.main(["checkpoint", "prune", str(trained[0])])


def test_the_fingerprint_sees_order_and_not_sharding(monkeypatch):
  monkeypatch.setattr(fingerprint, "_is_on_host", lambda leaf: False)
  value = jnp.arange(64.0).reshape(8, 8)
  mesh = mesh_lib.make_mesh(MeshConfig(data=4, fsdp=2))
  spec = jax.sharding.PartitionSpec("data", "fsdp")
  cut = jax.device_put(value, jax.sharding.NamedSharding(mesh, spec))
  assert fingerprint.table([cut]) == fingerprint.table([value])
  assert fingerprint.table([value.T]) != fingerprint.table([value])


def test_sealed_json_notices_a_change():
  sealed = json.loads(json.dumps(workdir.seal({"a": 1, "b": [2.5]})))
  assert workdir.unseal(sealed) == {"a": 1, "b": [2.5]}
  with pytest.raises(ValueError, match="checksum"):
    workdir.unseal(sealed | {"a": 2})
