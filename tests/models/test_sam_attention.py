"""Every form of attention with relative positions gives what adding the bias gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.settings import MeshConfig
from miras_jax.models import sam_attention, splash
from miras_jax.models.sam_attention import attend_grid
from miras_jax.models.sam_encoder import SamEncoder, relative_positions
from miras_jax.parallel import mesh as mesh_lib
from tests.models import golden_sam
from tests.shared_data import needs_golden


def inputs(H=8, W=16, B=2, N=2, E=8, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 5)
  draw = jax.random.normal
  q, k, v = (draw(key, (B, N, H * W, E), dtype) for key in keys[:3])
  rel_h = relative_positions(draw(keys[3], (2 * H - 1, E)), H).astype(dtype)
  rel_w = relative_positions(draw(keys[4], (2 * W - 1, E)), W).astype(dtype)
  return q.reshape(B, N, H, W, E), k, v, rel_h, rel_w


def with_gradients(form, args):
  def loss(*args):
    out = attend_grid(*args, form)
    return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum(), out

  grad = jax.value_and_grad(loss, argnums=range(5), has_aux=True)
  (_, out), grads = jax.jit(grad)(*args)
  return out, *grads


@pytest.mark.parametrize("form", ["folded", "splash"])
def test_a_folded_bias_gives_the_output_and_gradients_of_an_added_one(form):
  args = inputs()
  want = with_gradients("bias", args)
  for ours, other in zip(with_gradients(form, args), want, strict=True):
    np.testing.assert_allclose(ours, other, atol=2e-5 * np.abs(other).max())


def test_under_a_mesh_each_device_attends_in_its_images_and_heads():
  args = inputs(B=4)
  mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
  want = attend_grid(*args, "bias")
  with jax.set_mesh(mesh):
    ours = jax.jit(functools.partial(attend_grid, form="splash"))(*args)
  np.testing.assert_allclose(ours, want, atol=1e-5)


def test_low_parts_keep_a_bias_of_half_precision_exact():
  """Against float32: the folded form errs no more than the form that adds float32."""
  args = inputs(dtype=jnp.bfloat16)
  exact = attend_grid(*(x.astype(jnp.float32) for x in args), "bias")

  def error(form):
    return np.abs(attend_grid(*args, form).astype(jnp.float32) - exact).mean()

  q, k = sam_attention.fold(args[0], args[1], *args[3:], parts=1)
  rough = sam_attention._attend_plain(q, k, args[2]).reshape(exact.shape)
  assert error("folded") < 1.1 * error("bias")
  assert np.abs(rough.astype(jnp.float32) - exact).mean() > 1.3 * error("folded")


@needs_golden
@pytest.mark.parametrize("form", ["bias", "folded"])
def test_image_embeddings_agree_with_the_reference_in_every_form(form):
  image = golden_sam.channels_last(golden_sam.arrays("inputs")["images"])
  encoder = SamEncoder(golden_sam.encoder_config(), attention=form)
  ours = jax.jit(encoder.apply)({"params": golden_sam.encoder_params()}, image)
  want = golden_sam.channels_last(golden_sam.arrays("outputs")["sam/image_embeddings"])
  np.testing.assert_allclose(ours, want, atol=1e-5)


def test_kernels_are_for_long_rows_on_a_tpu(monkeypatch):
  full, window = (1, 16, 64, 64, 80), (25, 16, 14, 14, 80)
  assert sam_attention._usual(full) == "bias"
  monkeypatch.setattr(splash, "on_tpu", lambda: True)
  assert sam_attention._usual(full) == "splash"
  assert sam_attention._usual(window) == "folded"
  with jax.set_mesh(mesh_lib.make_mesh(MeshConfig(data=2, tensor=4))):
    assert sam_attention._usual((1, 18, 64, 64, 64)) == "folded"  # no kernel a device
