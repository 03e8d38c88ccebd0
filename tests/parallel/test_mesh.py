"""Mesh: sizes are checked against the devices, and every error proposes a way out."""

import re

import jax
import pytest
from jax.sharding import AxisType

from miras_jax.config.settings import MeshConfig
from miras_jax.errors import UserError
from miras_jax.parallel import mesh


def test_the_free_axis_takes_what_is_left():
  sizes = mesh.resolve(MeshConfig(data=-1, tensor=2), 8)
  assert sizes == {"dcn_data": 1, "data": 4, "fsdp": 1, "tensor": 2, "sequence": 1}


def test_all_axes_are_auto():
  made = mesh.make_mesh(MeshConfig(data=2, fsdp=4))
  assert made.axis_names == mesh.AXES
  assert set(made.axis_types) == {AxisType.Auto}
  assert made.size == len(jax.devices())


@pytest.mark.parametrize(
  "sizes", [{"data": 3}, {"data": 1}, {"data": -1, "fsdp": 3}, {"data": 16}]
)
def test_a_mesh_that_does_not_fit_proposes_one_that_does(sizes):
  with pytest.raises(UserError, match=r"8 device") as error:
    mesh.resolve(MeshConfig(**sizes), 8)
  proposal = dict(re.findall(r"--config\.mesh\.(\w+)=(\d+)", str(error.value)))
  fixed = MeshConfig(**{name: int(size) for name, size in proposal.items()})
  assert mesh.resolve(fixed, 8) == fixed.sizes


def test_two_free_axes_are_refused():
  with pytest.raises(UserError, match="only one mesh axis"):
    MeshConfig(data=-1, fsdp=-1)


def test_a_size_of_zero_is_refused():
  with pytest.raises(UserError, match="tensor=0"):
    MeshConfig(tensor=0)


def test_batch_must_divide_the_shards_and_the_error_names_sizes_that_do():
  made = mesh.make_mesh(MeshConfig(data=4, fsdp=2))
  mesh.check_batch(16, made)
  with pytest.raises(UserError, match=r"batch_size=12 .* set batch_size=8 or 16"):
    mesh.check_batch(12, made)


def test_every_micro_batch_must_divide_the_shards():
  made = mesh.make_mesh(MeshConfig(data=8))
  with pytest.raises(UserError, match=r"=4; set batch_size=32, or change optim.acc"):
    mesh.check_batch(16, made, accumulation=4)


def test_a_sequence_axis_that_does_not_divide_the_row_is_refused():
  made = mesh.make_mesh(MeshConfig(data=2, sequence=4))
  mesh.check_length(248, made)
  with pytest.raises(
    UserError, match="rows of 250 tokens; set data.max_len=252, or mes"
  ):
    mesh.check_length(250, made)
