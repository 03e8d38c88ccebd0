"""Small random leaves drawn together: the same numbers, a fraction of the compiling.

A model of many small towers draws a hundred kernels of fifty shapes. XLA writes out
every draw in full, for which it takes longer than for the training step. The numbers of
a key do not depend on the shape that they fill, so that leaves of similar sizes can be
rows of one draw, each cut to its length.
"""

import collections

import jax
import jax.numpy as jnp
from jax.extend import core

# Elements of a row. A larger leaf is drawn by itself, where its shards are.
ROWS = (2**4, 2**8, 2**12, 2**16)
_FOLD_IN = "random_fold_in"  # makes a leaf's key of its name
# What kernels are drawn by. The few leaves of `normal` stay: XLA makes one number of
# its factor and the one that follows, which would change their last bit here.
_DRAW = "_truncated_normal"


def together(init):
  """`init(key)` -> a tree of arrays, as a function with few draws, of the same numbers.

  Nothing that the tree does not need is kept, such as the pass through the model. As it
  is where the numbers do depend on the shape, without `jax_threefry_partitionable`.
  """

  def drawn(key):
    closed, shapes = jax.make_jaxpr(init, return_shape=True)(key)
    values = _Values(closed, key)
    for level in _levels(closed.jaxpr):
      for kind, equations in _alike(level).items():
        values.solve(kind, equations)
    leaves = map(values.read, closed.jaxpr.outvars)
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

  return drawn if jax.config.jax_threefry_partitionable else init


class _Values:
  """What the variables of a jaxpr are, as its equations are solved."""

  def __init__(self, closed, key):
    self._jaxpr = closed.jaxpr
    self._of = dict(zip(self._jaxpr.constvars, closed.consts, strict=True))
    self._of[self._jaxpr.invars[0]] = key

  def read(self, var):
    return var.val if isinstance(var, core.Literal) else self._of[var]

  def solve(self, kind, equations):
    """Equations of one kind that need nothing of each other."""
    inputs = [list(map(self.read, eqn.invars)) for eqn in equations]
    if kind[0] == _FOLD_IN:
      results = jax.vmap(jax.random.fold_in)(*map(jnp.stack, zip(*inputs, strict=True)))
    elif kind[0] == _DRAW:
      _, row, dtype, *limits = kind
      keys = jnp.stack([key for key, *_ in inputs])
      draw = jax.random.truncated_normal
      rows = jax.vmap(lambda key: draw(key, *limits, (row,), dtype))(keys)
      results = [
        values[: eqn.outvars[0].aval.size].reshape(eqn.outvars[0].aval.shape)
        for eqn, values in zip(equations, rows, strict=True)
      ]
    else:
      self._one(equations[0])
      return
    self._of.update(
      (eqn.outvars[0], value) for eqn, value in zip(equations, results, strict=True)
    )

  def _one(self, eqn):
    variables = _variables(eqn.invars)
    jaxpr = self._jaxpr.replace(
      constvars=[], invars=variables, outvars=eqn.outvars, eqns=[eqn]
    )
    function = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, []))
    results = function(*map(self.read, variables))
    self._of.update(zip(eqn.outvars, results, strict=True))


def _levels(jaxpr):
  """The equations that the results need; each level needs those before it alone."""
  wanted, needed = set(_variables(jaxpr.outvars)), []
  for eqn in reversed(jaxpr.eqns):
    if wanted.intersection(eqn.outvars):
      needed.append(eqn)
      wanted.update(_variables(eqn.invars))
  depth, levels = {}, collections.defaultdict(list)
  for eqn in reversed(needed):
    level = 1 + max((depth.get(var, 0) for var in _variables(eqn.invars)), default=0)
    levels[level].append(eqn)
    depth.update(dict.fromkeys(eqn.outvars, level))
  return [levels[level] for level in sorted(levels)]


def _variables(atoms):
  return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _alike(equations):
  """{kind: equations} of those that are solved at once; every other by itself."""
  groups = collections.defaultdict(list)
  for eqn in equations:
    groups[_kind(eqn)].append(eqn)
  return groups


def _kind(eqn):
  if not eqn.invars:
    return (id(eqn),)
  key, *others = eqn.invars
  if eqn.primitive.name == _FOLD_IN and key.aval.shape == ():
    return (_FOLD_IN,)
  leaf = eqn.outvars[0].aval
  if eqn.params.get("name") == _DRAW and leaf.size <= ROWS[-1]:
    row = next(size for size in ROWS if leaf.size <= size)
    return _DRAW, row, leaf.dtype, *(limit.val for limit in others)
  return (id(eqn),)
