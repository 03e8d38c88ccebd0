"""Where a run will be: a topology as chips, VMs and the names that clouds give it."""

import math
from typing import NamedTuple

from miras_jax.errors import UserError
from miras_jax.parallel import chips
from miras_jax.planning import topology

CHIPS_PER_VM = 4


class Names(NamedTuple):
  """What one kind of accelerator is called; "": that launcher does not have it."""

  gke: str  # node label
  machine: str  # of a node with 4 TPU chips, or 8 GPUs
  cloud: str = ""  # Cloud TPU's type, before the hyphen
  cores: int = 1  # that Cloud TPU's type counts a chip
  runtime: str = ""  # Cloud TPU's VM image
  xpk: str = ""  # a device type of xpk: a prefix for TPUs, a whole name for GPUs
  sky: str = ""  # SkyPilot's accelerator, a prefix for TPUs


# Sources: GKE's and Cloud TPU's pages, xpk's and SkyPilot's own tables. fmt: off
NAMES = {
  "v4": Names(
    "tpu-v4-podslice", "ct4p-hightpu-4t", "v4", 2, "tpu-ubuntu2204-base", "v4", "tpu-v4"
  ),
  "v5e": Names(
    "tpu-v5-lite-podslice",
    "ct5lp-hightpu-4t",
    "v5litepod",
    1,
    "v2-alpha-tpuv5-lite",
    "v5litepod",
    "tpu-v5litepod",
  ),
  "v5p": Names(
    "tpu-v5p-slice", "ct5p-hightpu-4t", "v5p", 2, "v2-alpha-tpuv5", "v5p", "tpu-v5p"
  ),
  "v6e": Names(
    "tpu-v6e-slice", "ct6e-standard-4t", "v6e", 1, "v2-alpha-tpuv6e", "v6e", "tpu-v6e"
  ),
  "tpu7x": Names("tpu7x", "tpu7x-standard-4t", cores=2, xpk="tpu7x"),
  "a100": Names("nvidia-a100-80gb", "a2-ultragpu-8g", sky="A100-80GB"),
  "h100": Names("nvidia-h100-80gb", "a3-highgpu-8g", xpk="h100-80gb-8", sky="H100"),
  "h200": Names("nvidia-h200-141gb", "a3-ultragpu-8g", xpk="h200-141gb-8", sky="H200"),
}
# fmt: on


class Place(NamedTuple):
  """One or more TPU slices, or GPU nodes: a node takes the place of a slice."""

  name: str  # "v5e:4x4x2"
  generation: str
  shape: tuple[int, ...]  # chips of a slice, or (GPUs of a node,)
  slices: int
  chip: chips.Chip

  @property
  def is_tpu(self) -> bool:
    return self.generation in topology.SHAPES

  @property
  def platform(self) -> str:
    return "tpu" if self.is_tpu else "gpu"

  @property
  def names(self) -> Names:
    return NAMES[self.generation]

  @property
  def layout(self) -> str:
    """ "4x4" """
    return "x".join(map(str, self.shape))

  @property
  def chips_per_slice(self) -> int:
    return math.prod(self.shape)

  @property
  def chips_per_vm(self) -> int:
    if self.is_tpu:
      return min(CHIPS_PER_VM, self.chips_per_slice)
    return self.chips_per_slice

  @property
  def machine(self) -> str:
    """ "ct5lp-hightpu-4t": GKE's name of a node."""
    machine = self.names.machine
    return machine.replace("-4t", "-1t") if self.chips_per_vm == 1 else machine

  @property
  def vms_per_slice(self) -> int:
    return self.chips_per_slice // self.chips_per_vm

  @property
  def devices(self) -> int:
    """What JAX sees of all slices."""
    return self.chips_per_slice * self.slices * self.chip.devices

  @property
  def cloud_type(self) -> str:
    """ "v5litepod-16": the slice as Cloud TPU names it."""
    return f"{self.names.cloud}-{self.chips_per_slice * self.names.cores}"

  def __str__(self):
    unit = "slice" if self.is_tpu else "node"
    each = count(self.chips_per_slice, "chip" if self.is_tpu else "GPU")
    vms = f", {count(self.vms_per_slice, 'VM')} each" if self.is_tpu else ""
    return f"{count(self.slices, unit)} of {each}{vms}"


def count(number, thing) -> str:
  """ "2 chips" """
  return f"{number} {thing}{'s' if number != 1 else ''}"


def find(text) -> Place:
  """The Place of a `--topology`. Raises UserError naming the nearest there is."""
  names = topology.split_names(text)
  if len(names) > 1:
    raise UserError(f"--topology={text}: a run is on one topology, e.g. {names[0]}")
  generation, shape, slices = topology.parse(names[0])
  chip = topology.chip_of(generation)
  return Place(names[0], generation, shape, slices, chip)


def require(place, kind, *, tpu: bool) -> None:
  """UserError unless `kind` runs on what the place has."""
  if place.is_tpu == tpu:
    return
  wanted = "--topology=v5e:4x4" if tpu else "--topology=h100:8x4"
  raise UserError(
    f"miras launch {kind} is for {'TPU slices' if tpu else 'GPU nodes'}, not for"
    f" {place.name}: take one, e.g. {wanted}, or miras launch gke"
  )
