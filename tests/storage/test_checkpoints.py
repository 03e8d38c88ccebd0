"""Checkpoints in a bucket: whole or invisible, as they are on a disk."""

import jax.numpy as jnp
import pytest

from miras_jax.checkpoint import command, reading, workdir
from miras_jax.checkpoint.store import Checkpoints
from miras_jax.storage import reach
from tests.checkpoint import test_store as local


def test_a_restored_state_is_bit_identical_and_keep_counts(bucket):
  state = local.save(bucket, 3, 6, 9, keep=2)
  folder = workdir.Workdir(bucket)
  assert folder.steps() == [6, 9]
  with Checkpoints(bucket, keep=2) as checkpoints:
    restored, step, data = checkpoints.restore(local.shapes_of(state))
  assert step == 9 and data == {"next": 144}
  assert local.equal(restored, state.replace(step=jnp.int32(9)))
  reading.verify(folder.step(6))
  reading.verify(folder.frozen)


def test_a_save_that_was_killed_is_invisible_and_then_gone(bucket):
  local.save(bucket, 1, 2)
  folder = workdir.Workdir(bucket)
  (folder.step(2) / workdir.METADATA).unlink()
  assert folder.steps() == [1] and folder.incomplete_steps() == [2]
  assert workdir.locate(bucket)[1] == 1
  with Checkpoints(bucket, keep=2):
    assert folder.incomplete_steps() == []


def test_frozen_parameters_that_were_half_written_are_written_again(bucket):
  local.save(bucket, 1)
  folder = workdir.Workdir(bucket)
  (folder.frozen / workdir.METADATA).unlink()
  local.save(bucket, 2)
  reading.verify(folder.frozen)


def test_damage_is_named_and_the_step_before_is_used(bucket, capsys):
  state = local.save(bucket, 1, 2)
  folder = workdir.Workdir(bucket)
  values = max(folder.step(2).glob("state/d/*"), key=lambda p: p.stat().length)
  values.write_bytes(b"")
  command.main(["verify", bucket])
  assert "DAMAGED" in capsys.readouterr().out
  with Checkpoints(bucket, keep=5) as checkpoints:
    assert checkpoints.restore(local.shapes_of(state))[1] == 1
  assert folder.steps() == [1]
  assert (folder.checkpoints / "2.damaged").is_dir()


def test_a_save_over_the_leftovers_of_another_is_whole(bucket):
  state = local.save(bucket, 1)
  folder = workdir.Workdir(bucket)
  (folder.step(2) / "state" / "d" / "old").write_text("half")
  with Checkpoints(bucket, keep=5) as checkpoints:
    checkpoints.save(2, state, data_state={}, metrics={})
  reading.verify(folder.step(2))
  assert not (folder.step(2) / "state" / "d" / "old").exists()


def test_a_bucket_that_is_not_there_is_one_line(bucket):
  place = bucket.replace("gs://bkt", "gs://nowhere")
  with pytest.raises(Exception, match="gs://nowhere.*no such bucket"):
    reach.check(place)


def test_a_bucket_without_permission_is_one_line(bucket):
  with pytest.raises(Exception, match="gs://forbidden/run: .*no permission"):
    reach.check("gs://forbidden/run")
