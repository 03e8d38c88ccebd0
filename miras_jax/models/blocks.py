"""Runs of equal blocks, unrolled or as one loop.

A tower of dozens of unrolled blocks takes the compiler minutes and gigabytes; as loops
over stacked parameters it takes one body a run.
"""

import jax
import jax.numpy as jnp

from miras_jax.parallel import sharding


def run_blocks(parent, make, names, x, *, scan):
  """`x` through the blocks `names` of the module `parent`, one after the other.

  `make(name=...)` is one block, a module from `x` to its like. `scan`: as a loop. The
  parameters keep their names and places in the tree either way; the loop stacks them
  first, a copy of the run's weights on each device, as sharded as these are.

  A gradient of one block's parameters is taken through the whole run: end a run where
  training begins.
  """
  if not scan or len(names) < 2 or parent.is_initializing():
    for name in names:
      x = make(name=name)(sharding.constrain(x, "tower"))
    return x
  block, params = make(parent=None), parent.variables["params"]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[params[n] for n in names])

  def step(x, params):
    x = sharding.constrain(x, "tower")
    return sharding.constrain(block.apply({"params": params}, x), "tower"), None

  return jax.lax.scan(step, x, stacked)[0]
