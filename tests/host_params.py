"""Random parameters without compiling the many random generators of an init."""

import jax
import numpy as np


def host_params(init):
  """numpy parameters of `init(key)`; norms and layer scales are 1."""
  rng = np.random.default_rng(0)

  def value(path, leaf):
    if path[-1].key in ("scale", "gamma"):
      return np.ones(leaf.shape, np.float32)
    return rng.normal(scale=0.1, size=leaf.shape).astype(np.float32)

  return jax.tree.map_with_path(value, jax.eval_shape(init, jax.random.key(0)))
