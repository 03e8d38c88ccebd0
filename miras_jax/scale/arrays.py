"""The largest arrays that a program computes, read from its jaxpr.

For programs that the compiler refuses without naming a buffer. Shapes are whole; the
compiler cuts most of them over the devices and fuses some away.
"""

import math

import jax
import jax.numpy as jnp


def largest(build, count):
  """[{bytes, shape, op_name}] of a programs.Build, as if cut over all devices."""
  found = {}
  traced = build.jitted.trace(*build.shapes)
  for aval, where in _outputs(traced.jaxpr.jaxpr, ""):
    size = math.prod(aval.shape) * jnp.dtype(aval.dtype).itemsize
    found[size, aval.str_short(short_dtypes=True), where] = None
  devices = build.mesh.devices.size
  ordered = sorted(found, key=lambda x: -x[0])[:count]
  return [
    {"bytes": size // devices, "shape": shape, "op_name": where}
    for size, shape, where in ordered
  ]


def _outputs(jaxpr, path):
  """Yields (aval, where) of every array that is computed, in loops and calls too."""
  for equation in jaxpr.eqns:
    inner = list(_inner(equation))
    own = "/".join(filter(None, (path, str(equation.source_info.name_stack))))
    for body in inner:
      yield from _outputs(body, own)
    if inner and equation.primitive.name != "scan":
      continue  # what a call returns was computed inside
    for variable in equation.outvars:
      if hasattr(variable.aval, "shape") and not jax.dtypes.issubdtype(
        variable.aval.dtype, jax.dtypes.extended
      ):
        yield variable.aval, f"{own}/{equation.primitive.name}".lstrip("/")


def _inner(equation):
  """Jaxprs that an equation runs."""
  for value in equation.params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if hasattr(item, "jaxpr"):
        item = item.jaxpr
      if hasattr(item, "eqns"):
        yield item
