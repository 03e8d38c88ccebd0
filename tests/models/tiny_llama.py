"""The decoder at the size of its tests."""

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from miras_jax.config.model import LlamaConfig
from miras_jax.models.llama import Llama

TINY = LlamaConfig(
  width=24,
  mlp_width=40,
  depth=3,
  num_heads=6,
  num_kv_heads=2,
  head_dim=4,
  vocab_size=31,
  qkv_bias=True,
  rope_theta=5e5,
)


def shapes_of(cfg):
  x_BTD = jax.ShapeDtypeStruct((1, 8, cfg.width), jnp.float32)
  positions_BT = jax.ShapeDtypeStruct((1, 8), jnp.int32)
  mask_BTS = jax.ShapeDtypeStruct((1, 8, 8), bool)
  init = Llama(cfg).init
  params = jax.eval_shape(init, jax.random.key(0), x_BTD, positions_BT, mask_BTS)
  return {k: v.shape for k, v in flatten_dict(params["params"], sep="/").items()}
