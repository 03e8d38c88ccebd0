"""The device mesh: five named axes whose sizes come from the config.

`dcn_data` is data parallelism over the slow network between slices, `data` over the
fast one within, `fsdp` shards parameters and batch, `tensor` splits matrix products,
`sequence` splits long rows. A size of -1 takes what is left.
"""

import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from miras_jax.errors import UserError

AXES = ("dcn_data", "data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("dcn_data", "data", "fsdp")


def resolve(cfg, num_devices) -> dict[str, int]:
  """Returns {axis: size} with -1 filled in, product == num_devices.

  Raises UserError proposing a mesh that fits.
  """
  sizes = cfg.sizes
  fixed = math.prod(s for s in sizes.values() if s != -1)
  free = [n for n, s in sizes.items() if s == -1]
  if free and num_devices % fixed == 0:
    return sizes | {free[0]: num_devices // fixed}
  if not free and fixed == num_devices:
    return sizes
  raise UserError(
    f"mesh {_text(sizes)} does not fit {num_devices} device(s); this fits:"
    f" {_options(_proposal(sizes, num_devices))}"
  )


def make_mesh(cfg, devices=None) -> jax.sharding.Mesh:
  """A Mesh over all devices with Auto axes; activate it with `jax.set_mesh(mesh)`."""
  devices = list(jax.devices() if devices is None else devices)
  sizes = resolve(cfg, len(devices))
  return _mesh(_device_grid(sizes, devices))


def local_mesh() -> jax.sharding.Mesh:
  """A Mesh of this process's devices alone, all along `data`."""
  return _mesh(np.asarray(jax.local_devices()).reshape(1, -1, 1, 1, 1))


def _mesh(grid):
  return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_shards(mesh) -> int:
  """Into how many parts the batch axis is cut."""
  return math.prod(mesh.shape[name] for name in BATCH_AXES)


def check_batch(batch_size, mesh, *, accumulation=1) -> None:
  """Raises UserError unless every micro-batch splits evenly over the batch shards."""
  unit = batch_shards(mesh) * accumulation
  if batch_size % unit == 0 and batch_size > 0:
    return
  lower = batch_size // unit * unit
  fits = f"{lower} or {lower + unit}" if lower else str(unit)
  more = "mesh.data, mesh.fsdp" if batch_shards(mesh) > 1 else ""
  if accumulation > 1:
    more = f"optim.accumulation{' or ' + more if more else ''}"
  raise UserError(
    f"batch_size={batch_size} does not divide into {batch_shards(mesh)} batch shard(s)"
    f" x optim.accumulation={accumulation}; set batch_size={fits}, or change {more}"
  )


def check_length(length, mesh) -> None:
  """Raises UserError unless rows of so many tokens split evenly over `sequence`.

  Where they do not, every device of that axis would silently do the work of all.
  """
  parts = mesh.shape["sequence"]
  if length % parts:
    raise UserError(
      f"mesh.sequence={parts} does not divide rows of {length} tokens; set"
      f" data.max_len={-(-length // parts) * parts}, or"
      f" mesh.sequence={math.gcd(length, parts)}"
    )


def data_host(mesh) -> tuple[int, int]:
  """(index, count): which share of every batch this process feeds, of how many.

  Processes whose devices hold the same rows (an axis that does not cut the batch spans
  them) feed the same share. Raises UserError when two shares overlap in part.
  """
  shards = batch_shards(mesh)
  placed = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
  rows = {}
  for device, (index,) in placed.devices_indices_map((shards,)).items():
    rows.setdefault(device.process_index, set()).update(range(*index.indices(shards)))
  shares = sorted({tuple(sorted(part)) for part in rows.values()})
  if sum(map(len, shares)) != shards or len(set(map(len, shares))) > 1:
    raise UserError(
      f"mesh {_text(dict(mesh.shape))} cuts the batch across {len(rows)} processes in"
      " overlapping parts; take sizes of tensor and sequence that divide, or are a"
      " multiple of, the devices of a process"
    )
  return shares.index(tuple(sorted(rows[jax.process_index()]))), len(shares)


def _device_grid(sizes, devices):
  shape = tuple(sizes[name] for name in AXES)
  slices = len({getattr(d, "slice_index", 0) for d in devices})
  if slices > 1:
    if sizes["dcn_data"] % slices:
      raise UserError(
        f"the devices are in {slices} slices, mesh.dcn_data={sizes['dcn_data']} is no"
        f" multiple of that; set mesh.dcn_data={slices}"
      )
    inner = (shape[0] // slices,) + shape[1:]
    outer = (slices,) + (1,) * (len(AXES) - 1)
    return mesh_utils.create_hybrid_device_mesh(
      inner, outer, devices=devices, allow_split_physical_axes=True
    )
  if devices[0].platform == "cpu":
    return np.asarray(devices).reshape(shape)
  # An axis may take a part of a torus dimension, e.g. data=8, tensor=2 of 4 x 4 chips.
  return mesh_utils.create_device_mesh(
    shape, devices=devices, allow_split_physical_axes=True
  )


def _proposal(sizes, num_devices):
  """Keeps the axes that divide what is left, in order of cost to give up."""
  left, kept = num_devices, {}
  for name in ("tensor", "sequence", "fsdp", "dcn_data"):
    size = sizes[name] if sizes[name] > 0 else 1
    kept[name] = math.gcd(size, left)
    left //= kept[name]
  return {"dcn_data": kept["dcn_data"], "data": left} | {
    name: kept[name] for name in ("fsdp", "tensor", "sequence")
  }


def _options(sizes):
  return " ".join(f"--config.mesh.{name}={size}" for name, size in sizes.items())


def _text(sizes):
  return " ".join(f"{name}={size}" for name, size in sizes.items())
