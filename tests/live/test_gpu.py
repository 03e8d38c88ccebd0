"""What only an NVIDIA GPU can show; skipped elsewhere.

  JAX_PLATFORMS=cuda,cpu python -m pytest tests/live/test_gpu.py

cuDNN's attention, forward and backward, against the same in float32 on the CPU, and the
training step that uses it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.benchmarks import prist
from miras_jax.benchmarks.step import Step, full_batch
from miras_jax.models import attention, sam_attention
from miras_jax.models.sam_encoder import relative_positions

pytestmark = pytest.mark.skipif(
  jax.default_backend() != "gpu", reason="JAX sees no GPU (JAX_PLATFORMS=cuda,cpu)"
)
# Of the norm of a difference in that of the reference, for bfloat16.
CLOSE = 1e-2


def draw(*shapes):
  """bfloat16 arrays of normal numbers."""
  keys = jax.random.split(jax.random.key(0), len(shapes))
  pairs = zip(keys, shapes, strict=True)
  return [jax.random.normal(key, shape, jnp.bfloat16) for key, shape in pairs]


def with_gradients(function, args):
  """[output, gradient of each argument] of a weighted sum, as float32 on the host."""

  def loss(*args):
    out = function(*args)
    weights = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
    return (out.astype(jnp.float32) * weights).sum(), out

  grad = jax.value_and_grad(loss, argnums=range(len(args)), has_aux=True)
  (_, out), grads = jax.jit(grad)(*args)
  return [np.asarray(x, np.float32) for x in (out, *grads)]


def exact(function, args):
  """The same in float32 on the CPU."""
  cpu = jax.devices("cpu")[0]
  with jax.default_device(cpu):
    args = [jax.device_put(x, cpu).astype(jnp.float32) for x in args]
    return with_gradients(function, args)


def assert_close(ours, want):
  for ours_x, want_x in zip(ours, want, strict=True):
    assert np.linalg.norm(ours_x - want_x) < CLOSE * np.linalg.norm(want_x)


@pytest.mark.parametrize("T, N, K, H", [(256, 4, 4, 128), (376, 4, 2, 64)])
def test_cudnn_sees_what_a_packed_row_of_the_decoder_may_see(T, N, K, H):
  """Prefix, two conversations and padding, whose queries are left out."""
  ends = np.array([T // 2, T * 3 // 4, T - 9])
  segments_T = np.searchsorted(ends, np.arange(T), side="right") + 1
  segments_BT = np.tile(np.where(segments_T == 4, 0, segments_T), (2, 1))
  real_B1 = (segments_BT > 0)[..., None, None]

  def attend(implementation):
    def function(q, k, v):
      mask = attention.segment_mask(jnp.asarray(segments_BT))[:, None]
      out = attention.attend(q, k, v, mask=mask, implementation=implementation)
      return jnp.where(real_B1, out, 0)

    return function

  args = draw((2, T, N, H), (2, T, K, H), (2, T, K, H))
  assert_close(with_gradients(attend("cudnn"), args), exact(attend("xla"), args))


@pytest.mark.parametrize("side, B, N", [(14, 25, 4), (64, 1, 2)])
def test_cudnn_adds_sam_s_relative_positions_in_windows_and_over_the_grid(side, B, N):
  E = 80  # of a head of ViT-H
  q, k, v, rel = draw(
    (B, N, side, side, E), (B, N, side**2, E), (B, N, side**2, E), (2 * side - 1, E)
  )
  args = [q, k, v, 0.1 * rel]

  def attend(form):
    def function(q, k, v, rel):
      both = relative_positions(rel, side)
      return sam_attention.attend_grid(q, k, v, both, both, form)

    return function

  assert_close(with_gradients(attend("cudnn"), args), exact(attend("bias"), args))


def losses(implementation, steps=4):
  fields = {
    "model.dtype": "bfloat16", "model.overrides.llama.width": 256,
    "model.overrides.llama.head_dim": 64, "model.overrides.llama.num_heads": 4,
    "model.overrides.llama.num_kv_heads": 4,
  }  # fmt: skip
  fields["model.overrides.llama.attention"] = implementation
  config = prist.model_config("tiny", list(fields.items()))
  step = Step(config, full_batch(config.model.build(), config))
  return [float(step()["loss"]) for _ in range(steps)]


def test_a_training_step_with_cudnn_has_the_losses_of_one_without():
  ours, plain = losses("cudnn"), losses("xla")
  assert ours[-1] < ours[0]
  np.testing.assert_allclose(ours, plain, rtol=1e-2)
