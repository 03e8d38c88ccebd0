"""The kernels that change layout and rotate, interpreted, against plain jax.numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.models import head_layout, splash
from miras_jax.models.attention import attend, rope_table, segment_mask

B, T, N, H = 2, 256, 2, 128


def inputs(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  x_BTD = jax.random.normal(keys[0], (B, T, N * H), dtype)
  extra_BTE = jax.random.normal(keys[1], (B, T, H), dtype)
  positions_BT = jnp.broadcast_to(jnp.arange(T), (B, T)) + jnp.array([[0], [7]])
  return x_BTD, extra_BTE, rope_table(positions_BT, H, theta=1e4)


def plain(x_BTD, extra_BTE, rotary, scale):
  x_BTNH = x_BTD.reshape(B, T, N, H)
  if rotary is not None:
    x_BTNH = splash.rope(x_BTNH, *rotary) * scale
  if extra_BTE is not None:
    x_BTNH = splash._widen(x_BTNH, extra_BTE)
  return x_BTNH.transpose(0, 2, 1, 3)


@pytest.mark.parametrize("rotate, widen", [(True, True), (True, False), (False, False)])
def test_heads_are_split_rotated_and_widened_forward_and_backward(rotate, widen):
  x, extra, rotary = inputs()
  extra, rotary = extra if widen else None, rotary if rotate else None
  table = head_layout.rotation(*rotary, scale=0.5) if rotate else None

  def ours(x):
    return head_layout.split_heads(x, table, extra, N, True)

  out, pull = jax.vjp(ours, x)
  want, want_pull = jax.vjp(lambda x: plain(x, extra, rotary, 0.5), x)
  np.testing.assert_allclose(out, want, atol=1e-6)
  grad = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
  np.testing.assert_allclose(pull(grad)[0], want_pull(grad)[0], atol=1e-6)


def test_joining_undoes_splitting_forward_and_backward():
  x, _, _ = inputs()

  def there_and_back(x):
    return head_layout.join_heads(head_layout.split_heads(x, None, None, N, True), True)

  out, pull = jax.vjp(there_and_back, x)
  np.testing.assert_array_equal(out, x)
  np.testing.assert_array_equal(pull(x)[0], x)


def test_attention_that_rotates_as_it_reads_equals_plain_attention():
  x, _, rotary = inputs()
  q = x.reshape(B, T, N, H)
  k, v = q[:, :, ::-1] * 0.5, q[:, ::-1]
  segments_BT = jnp.array([[1] * 100 + [2] * 100 + [0] * 56, [1] * 256])
  mask = segment_mask(segments_BT)[:, None]

  def loss(q, k, v, implementation):
    out = attend(
      q, k, v, mask=mask, segments_BT=segments_BT, rotary=rotary,
      implementation=implementation,
    )  # fmt: skip
    out = out * (segments_BT > 0)[..., None, None]
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum()

  found, want = (
    jax.jit(jax.grad(loss, argnums=(0, 1, 2)), static_argnums=3)(q, k, v, name)
    for name in ("splash", "xla")
  )
  for ours, other in zip(found, want, strict=True):
    np.testing.assert_allclose(ours, other, atol=2e-5)
