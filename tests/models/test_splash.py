"""Splash attention, interpreted on CPU, against plain attention under the same mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.lanes import extra_width
from miras_jax.config.settings import MeshConfig
from miras_jax.models.attention import attend, segment_mask
from miras_jax.models.splash import FAR
from miras_jax.parallel import mesh as mesh_lib

SINGLE = [1] * 150 + [0] * 10
PACKED = [1] * 40 + [2] * 50 + [3] * 30 + [4] * 30 + [0] * 10


def inputs(rows, *, N=2, K=1, H=64, seed=0):
  segments_BT = jnp.array(rows, jnp.int32)
  B, T = segments_BT.shape
  keys = jax.random.split(jax.random.key(seed), 4)
  q, k, v, g = (
    jax.random.normal(key, (B, T, n, H))
    for key, n in zip(keys, (N, K, K, N), strict=True)
  )
  return (q, k, v), g * (segments_BT > 0)[..., None, None], segments_BT


def both(implementation, qkv, cotangent, segments_BT):
  """(output where there are tokens, gradients) of one implementation."""
  mask = segment_mask(segments_BT)[:, None]

  def f(q, k, v):
    out = attend(
      q, k, v, mask=mask, segments_BT=segments_BT, implementation=implementation
    )
    return (out * cotangent).sum(), out

  step = jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True)
  (_, out), grads = jax.jit(step)(*qkv)
  return out * (segments_BT > 0)[..., None, None], grads


def test_packed_and_single_rows_equal_plain_attention_forward_and_backward():
  case = inputs([SINGLE, PACKED])
  for a, b in zip(
    *(jax.tree.leaves(both(n, *case)) for n in ("splash", "xla")), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_inside_a_batch_that_is_cut_by_hand_the_rest_of_the_mesh_is_cut():
  q, k, v = inputs([SINGLE, PACKED, PACKED, SINGLE], N=4, K=2)[0]
  segments_BT = jnp.array([SINGLE, PACKED, PACKED, SINGLE], jnp.int32)
  mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))

  def attend_part(*args):
    q, k, v, segments_BT = args
    return attend(q, k, v, segments_BT=segments_BT, implementation="splash")

  rows = jax.sharding.PartitionSpec("data")
  with jax.set_mesh(mesh):
    ours = jax.jit(
      jax.shard_map(
        attend_part, in_specs=rows, out_specs=rows, axis_names={"data"}, check_vma=False
      )
    )(q, k, v, segments_BT)
  want = attend(q, k, v, mask=segment_mask(segments_BT)[:, None])
  seen = (segments_BT > 0)[..., None, None]
  np.testing.assert_allclose(ours * seen, want * seen, atol=1e-5)


def test_under_a_mesh_each_device_attends_in_its_rows_and_heads():
  case = inputs([SINGLE, PACKED, PACKED, SINGLE], N=4, K=2)
  mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  with jax.set_mesh(mesh):
    ours = both("splash", *case)
  for a, b in zip(*map(jax.tree.leaves, (ours, both("xla", *case))), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_heads_that_tensor_does_not_divide_are_named():
  qkv, g, segments_BT = inputs([SINGLE], K=1)
  mesh = mesh_lib.make_mesh(MeshConfig(data=4, tensor=2))
  with jax.set_mesh(mesh), pytest.raises(ValueError, match="1 key heads.*tensor=2"):
    both("splash", qkv, g, segments_BT)


@pytest.mark.parametrize("head_dim, width", [(64, 64), (128, 128), (80, 176), (8, 120)])
def test_heads_and_segment_channels_fill_whole_registers(head_dim, width):
  assert extra_width(head_dim) == width
  assert float(jnp.bfloat16(FAR)) == FAR


def test_splash_without_segments_is_refused():
  qkv, _, _ = inputs([SINGLE])
  with pytest.raises(ValueError, match="segments_BT"):
    attend(*qkv, implementation="splash")
