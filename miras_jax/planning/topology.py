"""Names of TPU slices -> device descriptions that XLA's TPU compiler accepts.

`v5e:4x4`; one more number after the dimensions is a count of slices: `v5e:16x16x4`,
`v5p:8x8x8x2`. Several names are separated by commas. A name of the cloud, such as
`v5litepod-16`, is the slice of so many chips, here v5e:4x4. `h100:8x4` is 4 nodes of 8
GPUs: known by formulas alone, for nothing compiles for a GPU that is not there.
"""

import contextlib
import math
import os
import re
from typing import NamedTuple

from miras_jax.errors import UserError
from miras_jax.parallel import chips

# Generation: (numbers in a shape, shapes that compile; more may). XLA's own list.
# fmt: off
SHAPES = {
  "v5e": (2, ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
  "v6e": (2, ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
  "v5p": (3, ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8",
              "8x8x16", "8x16x16", "16x16x24")),
  "v4": (3, ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "8x8x8")),
  "tpu7x": (3, ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "8x8x8")),
}
# fmt: on
# GPUs of a node; a node takes the place of a slice.
NODES = {gpu: (1, ("1", "2", "4", "8")) for gpu in ("a100", "h100", "h200")}
KINDS = SHAPES | NODES
# The cloud's names: generation and what the number behind the hyphen counts a chip.
CLOUD = {
  "v5litepod": ("v5e", 1),
  "v5e": ("v5e", 1),
  "v6e": ("v6e", 1),
  "v5p": ("v5p", 2),  # cores
  "v4": ("v4", 2),
}
INSTALL = "pip install 'miras_jax[scale]' (or pip install libtpu, on Linux)"


class Hardware(NamedTuple):
  """What formulas ask of devices: the chip, and how many lie how."""

  name: str
  chip: chips.Chip
  shape: tuple[int, ...]  # of one slice, in chips
  num_slices: int

  @property
  def num_devices(self) -> int:
    """What JAX sees."""
    return num_chips(self.shape, self.num_slices) * self.chip.devices


class Topology(NamedTuple):
  """Devices of one or more slices, and the chip they are."""

  name: str
  devices: list
  chip: chips.Chip
  num_slices: int
  shape: tuple[int, ...]  # of one slice


def split_names(text):
  """ "v5e:4x4,8x8" -> ["v5e:4x4", "v5e:8x8"]: a generation holds until the next one."""
  names, generation = [], ""
  for item in filter(None, text.split(",")):
    item = of_cloud(item)
    if ":" in item:
      generation = item.split(":")[0]
    whole = ":" in item or not generation
    names.append(item if whole else f"{generation}:{item}")
  if not names:
    raise UserError(f"--topology is empty; {accepted()}")
  return names


def of_cloud(name):
  """ "v5p-128" -> "v5p:4x4x4", the slice that the cloud calls so; others unchanged."""
  match = re.fullmatch(r"(\w+)-(\d{1,6})", name)
  if not match or match[1] not in CLOUD:
    return name
  generation, cores = CLOUD[match[1]]
  for shape in SHAPES[generation][1]:
    if math.prod(map(int, shape.split("x"))) * cores == int(match[2]):
      return f"{generation}:{shape}"
  return name


def parse(name):
  """ "v5e:16x16x4" -> ("v5e", (16, 16), 4). Raises UserError listing what there is."""
  generation, _, text = name.partition(":")
  if generation not in KINDS or not re.fullmatch("[0-9]{1,4}(x[0-9]{1,4})*", text):
    raise UserError(f"unknown topology {name!r}; {accepted()}")
  rank, shapes = KINDS[generation]
  numbers = tuple(int(n) for n in text.split("x"))
  shape, slices = numbers[:rank], numbers[rank:] or (1,)
  if "x".join(map(str, shape)) not in shapes or len(slices) > 1 or slices[0] < 1:
    close = min(shapes, key=lambda other: _distance(other, shape))
    raise UserError(
      f"unknown topology {name!r}; the nearest is {generation}:{close};"
      f" {accepted(generation)}"
    )
  return generation, shape, slices[0]


def hardware(name) -> Hardware:
  """The Hardware of a name. Raises UserError listing what there is."""
  generation, shape, slices = parse(name)
  return Hardware(name, chip_of(generation), shape, slices)


def of_devices(devices) -> Hardware | None:
  """The same of devices that are there; None for a kind without a row in the table."""
  chip = chips.find(devices[0].device_kind)
  if chip is None:
    return None
  slices = count_slices(devices)
  each = max(1, len(devices) // slices // chip.devices)
  shape = _shape_of(devices, chip)
  shape = shape if math.prod(shape) == each else (each,)
  numbers = [*shape, slices] if slices > 1 else shape
  return Hardware(
    f"{chip.name.lower()}:{'x'.join(map(str, numbers))}", chip, shape, slices
  )


def label(devices) -> str:
  """A name for devices that are there, also where nothing is known of them."""
  found = of_devices(devices)
  return found.name if found else f"{len(devices)} x {devices[0].device_kind}"


def count_slices(devices) -> int:
  return len({getattr(d, "slice_index", 0) or 0 for d in devices})


def _shape_of(devices, chip):
  """Chips along each dimension of the torus of one slice; (0,) where none is told."""
  places = [tuple(getattr(d, "coords", None) or ()) for d in devices]
  rank = SHAPES.get(chip.name.lower(), (0,))[0]
  if not rank or not all(places):
    return (0,)
  columns = list(zip(*places, strict=True))[:rank]
  return tuple(len(set(column)) for column in columns)


def _distance(text, shape):
  """How far a shape that exists is from one that was asked for, by chips."""
  chips_there = math.prod(map(int, text.split("x")))
  return abs(math.log(chips_there / max(math.prod(shape), 1)))


def chip_of(generation) -> chips.Chip:
  """Row of the table of chips for a name in KINDS."""
  return next(c for c in chips.CHIPS if c.name.lower() == generation)


def accepted(generation=None):
  """One line: every name, or those of one generation."""
  lines = [
    f"{g}:{{{','.join(shapes)}}}"
    for g, (_, shapes) in KINDS.items()
    if generation in (None, g)
  ]
  return f"there are {' '.join(lines)}, and xN behind a shape for N slices or nodes"


def describe(name):
  """Topology of a name; needs libtpu, no TPU. Raises UserError."""
  generation, shape, slices = parse(name)
  if generation in NODES:
    raise UserError(
      f"{name}: nothing compiles for GPUs that are not there; add --estimate"
    )
  import importlib.util

  if importlib.util.find_spec("libtpu") is None:
    raise UserError(f"compiling for {name} needs libtpu: {INSTALL}")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # asks no metadata server
  # No chip is opened, so that several compilers may run side by side.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  from jax.experimental import topologies

  options = {"num_slices": slices} if slices > 1 else {}
  if math.prod(shape) == 1:  # else every host has four chips
    options["chips_per_host_bounds"] = (1, 1, 1)
  layout = f"{generation}:{'x'.join(map(str, shape))}"
  try:
    with quiet_stderr():
      found = topologies.get_topology_desc(
        platform="tpu", topology_name=layout, **options
      )
  except Exception as error:  # JaxRuntimeError, or RuntimeError by version
    raise UserError(f"topology {name}: {str(error).splitlines()[0]}") from error
  devices = list(found.devices)
  chip = chips.find(devices[0].device_kind)
  if chip is None:
    raise UserError(
      f"no numbers for {devices[0].device_kind!r} in miras_jax/parallel/chips.py"
    )
  return Topology(name, devices, chip, slices, shape)


@contextlib.contextmanager
def quiet_stderr():
  """libtpu writes harmless start-up errors past Python: not shown."""
  keep, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, 2)
    yield
  finally:
    os.dup2(keep, 2)
    os.close(keep)
    os.close(null)


def num_chips(shape, num_slices):
  return math.prod(shape) * num_slices
