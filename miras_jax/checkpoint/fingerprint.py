"""One number a leaf that a flipped bit changes and a sharding does not.

Orbax restores flipped bits silently. The sum runs modulo 2^32 over every value's bits
times an odd weight of its position: a change of one value always changes the sum.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

GOLDEN = 2654435761  # of the golden ratio: mixes well
HOST_PART = 1 << 22  # values at a time
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _sums(leaves):
  """One uint32 a leaf, on the host of every process."""
  if all(map(_is_on_host, leaves)):  # a program for hundreds of leaves takes seconds
    return [on_host(np.asarray(leaf)) for leaf in leaves]
  meshes = [getattr(getattr(x, "sharding", None), "mesh", None) for x in leaves]
  mesh = next((m for m in meshes if m is not None), None)
  return jax.device_get(_program(mesh)(leaves))


def _is_on_host(leaf):
  if not isinstance(leaf, jax.Array):
    return True
  cpu = all(device.platform == "cpu" for device in leaf.sharding.device_set)
  return cpu and leaf.is_fully_addressable


@functools.cache
def _program(mesh):
  def sums(leaves):
    return jnp.stack([_sum(x) for x in leaves]) if leaves else jnp.zeros(0, jnp.uint32)

  if mesh is None:
    return jax.jit(sums)
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.jit(sums, out_shardings=whole)


@jax.jit  # traced once for all leaves of a shape
def _sum(x):
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  if x.dtype.itemsize not in _UNSIGNED:
    raise ValueError(f"no fingerprint for {x.dtype}")
  bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize])
  position, stride = jnp.zeros(x.shape, jnp.uint32), 1
  for axis in reversed(range(x.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    position += index * jnp.uint32(stride % 2**32)
    stride *= x.shape[axis]
  weight = position * jnp.uint32(GOLDEN) | jnp.uint32(1)
  return jnp.sum(bits.astype(jnp.uint32) * weight, dtype=jnp.uint32)


def on_host(array) -> int:
  """The same number of a numpy array, without a device, a part of it at a time."""
  flat = np.ascontiguousarray(array).reshape(-1)
  if flat.dtype == np.bool_:
    flat = flat.astype(np.uint8)
  if flat.dtype.itemsize not in _UNSIGNED:
    raise ValueError(f"no fingerprint for {flat.dtype}")
  bits = flat.view(f"u{flat.dtype.itemsize}")
  total = 0
  for start in range(0, bits.size, HOST_PART):
    part = bits[start : start + HOST_PART].astype(np.uint32)
    position = np.arange(start, start + part.size, dtype=np.uint64).astype(np.uint32)
    weight = position * np.uint32(GOLDEN) | np.uint32(1)
    total += int((part * weight).sum(dtype=np.uint32))
  return total % 2**32


def path_name(path):
  """`trainable/llm/lm_head/kernel` for a jax key path."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def table(tree) -> dict[str, list]:
  """{path: [shape, dtype, fingerprint]} of every leaf; JSON-ready."""
  flat = jax.tree_util.tree_leaves_with_path(tree)
  sums = _sums([leaf for _, leaf in flat])
  return {
    path_name(path): [list(leaf.shape), str(leaf.dtype), int(value)]
    for (path, leaf), value in zip(flat, sums, strict=True)
  }


def first_mismatch(expected, found) -> tuple | None:
  """First path whose shape, dtype or (when both have one) fingerprint differs.

  Returns (path, expected entry or None, found entry or None), or None when all agree.
  """
  for path in sorted(expected.keys() | found.keys()):
    a, b = expected.get(path), found.get(path)
    if a is None or b is None or any(x != y for x, y in zip(a, b, strict=False)):
      return path, a, b
  return None
