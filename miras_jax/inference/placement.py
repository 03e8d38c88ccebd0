"""Where each parameter is read to, and whether the devices can hold them all."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, SingleDeviceSharding

from miras_jax.errors import UserError
from miras_jax.parallel import sharding

GIB = 2**30


class Placement:
  """(path, shape, dtype) -> sharding: that of the trainer's table on a mesh, or one
  device. UserError as soon as the parameters asked for take more than a device has."""

  def __init__(self, mesh=None):
    self._mesh, self._bytes = mesh, 0
    device = mesh.local_devices[0] if mesh else jax.local_devices()[0]
    self._device, self._limit = device, memory_of(device)

  def __call__(self, path, shape, dtype):
    where = SingleDeviceSharding(self._device)
    if self._mesh:
      spec = sharding.fit(sharding.spec_for(path), shape, self._mesh)
      where = NamedSharding(self._mesh, spec)
    self._bytes += math.prod(where.shard_shape(shape)) * jnp.dtype(dtype).itemsize
    if self._limit and self._bytes > self._limit:
      raise UserError(
        f"the parameters take more than the {self._limit / GIB:.1f} GiB of a device;"
        " cut them over several: --mesh=fsdp:4, or --mesh=fsdp:-1 for all there are"
      )
    return where


def memory_of(device) -> int:
  """Bytes of a device's memory; 0 where it does not say."""
  return (device.memory_stats() or {}).get("bytes_limit", 0)
