"""Leaves that are drawn together are those that are drawn one by one."""

import jax
import numpy as np

from miras_jax.config import variants
from miras_jax.config.overrides import with_overrides
from miras_jax.models.batched_init import ROWS, together
from miras_jax.models.miras import Miras, dummy_batch, init_params

TINY = variants.VARIANTS["tiny"]


def plain(cfg):
  model, batch = Miras(cfg), dummy_batch(cfg)
  return lambda key: model.init(key, batch)["params"]


def test_every_leaf_has_the_numbers_that_flax_gives_it():
  """But for the last bit, which depends on how XLA compiles."""
  cfg = with_overrides(
    TINY, {"clip.depth": 2, "convnext": None, "sam_decoder.depth": 1}
  )
  key = jax.random.key(3)
  wanted, found = jax.jit(plain(cfg))(key), init_params(cfg, key)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
  for leaf, want in pairs:
    assert leaf.dtype == want.dtype
    np.testing.assert_allclose(leaf, want, atol=1e-6)


def test_kernels_of_fifty_shapes_are_a_few_draws():
  """And those of a scanned decoder layer, each of which is one for all layers."""

  def draws(init):
    text = jax.jit(init).lower(jax.random.key(0)).as_text()
    return text.count("call @_truncated_normal")

  assert draws(plain(TINY)) > 100
  assert draws(together(plain(TINY))) <= len(ROWS) + 7


def test_a_large_leaf_is_drawn_by_itself():
  shape = (ROWS[-1] + 1,)
  draw = jax.nn.initializers.truncated_normal(1.0)

  def init(key):
    return [draw(jax.random.fold_in(key, i), shape) for i in range(3)]

  text = jax.jit(together(init)).lower(jax.random.key(0)).as_text()
  assert text.count("call @_truncated_normal") == 3
