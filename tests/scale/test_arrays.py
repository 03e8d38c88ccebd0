"""The largest arrays of a program are found inside loops and calls."""

import jax
import jax.numpy as jnp

from miras_jax.scale import arrays, programs


def test_the_largest_array_is_named_where_it_is_made():
  @jax.jit
  def program(x):
    def body(carry, row):
      with jax.named_scope("wide"):
        return carry, jnp.outer(row, row).sum()

    return jax.lax.scan(body, 0.0, x)[1]

  mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  shapes = (jax.ShapeDtypeStruct((4, 512), jnp.float32),)
  build = programs.Build("train", None, mesh, program, shapes)
  found = arrays.largest(build, 2)[0]
  assert found["bytes"] == 512 * 512 * 4
  assert found["shape"] == "f32[512,512]" and "wide" in found["op_name"]
