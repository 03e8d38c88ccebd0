"""Blocks as a loop are the same towers as unrolled ones."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miras_jax.config.variants import TINY
from miras_jax.models.clip_vit import ClipVit
from miras_jax.models.convnext import ConvNext
from miras_jax.models.sam_encoder import SamEncoder
from tests.host_params import host_params

# Deep enough for runs of two and more blocks.
TOWERS = {
  "clip": (ClipVit, dataclasses.replace(TINY.clip, depth=5)),
  "convnext": (ConvNext, dataclasses.replace(TINY.convnext, depths=(1, 1, 3, 1))),
  "sam": (
    SamEncoder,
    dataclasses.replace(TINY.sam_encoder, depth=4, global_layers=(3,)),
  ),
}


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_as_loops_has_the_same_output_and_gradients(name):
  module, cfg = TOWERS[name]
  image = jax.random.normal(jax.random.key(0), (1, cfg.image_size, cfg.image_size, 3))
  params = host_params(lambda key: module(cfg).init(key, image))
  weight = jax.random.normal(
    jax.random.key(2), jax.eval_shape(module(cfg).apply, params, image).shape
  )

  def loss(cfg):
    return lambda params: jnp.vdot(module(cfg).apply(params, image), weight)

  def value_and_grad(cfg):
    return jax.device_get(jax.jit(jax.value_and_grad(loss(cfg)))(params))

  unrolled = value_and_grad(cfg)
  looped_cfg = dataclasses.replace(cfg, scan_blocks=True)
  looped = value_and_grad(looped_cfg)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(unrolled[1]))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale),
    unrolled, looped,
  )  # fmt: skip
  assert "scan" in str(jax.make_jaxpr(loss(looped_cfg))(params))
