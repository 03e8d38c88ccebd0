"""From FLOPs and bytes to seconds: the slowest of compute, memory and networks.

The bound assumes that everything overlaps and every unit runs at its peak: no real step
is faster. With no overlap at all a step takes the sum, which is given as well.
"""

import math

import jax
import numpy as np

from miras_jax.planning.rates import NEAR, rates
from miras_jax.scale import programs


def bounds(entry, topology, mesh):
  """Seconds of each unit, their maximum, and the rates that follow from it."""
  chip = topology.chip
  times = {
    "compute": entry["flops"] / chip.peak_flops,
    "hbm": entry["hbm_traffic"] / chip.hbm_bandwidth,
    "ici": sum(
      c["bytes"] / ici_bandwidth(c["axis"], mesh, topology)
      for c in entry["collectives"]
      if c["network"] == "ici"
    ),
    "dcn": sum(c["bytes"] for c in entry["collectives"] if c["network"] == "dcn")
    / chip.dcn_bandwidth,
  }
  return rates(entry, times, chip.peak_flops)


def chip_hours(entry, examples):
  """Chip-hours at the bound for so many examples (conversations, of a cache images);
  None where nothing fits."""
  if not examples or not entry.get("examples_per_s"):
    return None
  return examples / entry["examples_per_s"] * entry["chips"] / 3600


def ici_bandwidth(axis, mesh, topology):
  """Bytes/s that one device sends along mesh axes ("data+fsdp"), all links together.

  A mesh axis lies along the torus dimensions in which its devices' coordinates differ.
  Each gives one link, or two when it is long enough to be closed to a ring.
  """
  chip = topology.chip
  names = list(mesh.shape)
  spans = set()
  for name in axis.split("+"):
    if name in names:
      spans |= _dimensions(mesh, names.index(name))
  links = 0
  for dimension, length in spans:
    whole = dimension < len(topology.shape) and length == topology.shape[dimension]
    links += 2 if whole and length >= chip.ring_from else 1
  return chip.ici_bandwidth * max(links, 1)


def _dimensions(mesh, index):
  """{(torus dimension, devices along it)} that one mesh axis covers."""
  grid = np.moveaxis(mesh.devices, index, 0)
  line = grid.reshape(grid.shape[0], -1)[:, 0]
  coordinates = [tuple(getattr(d, "coords", ()) or ()) for d in line]
  if not coordinates[0]:
    return set()
  columns = zip(*coordinates, strict=True)
  return {(i, len(set(c))) for i, c in enumerate(columns) if len(set(c)) > 1}


def traps(entry, build):
  """Sentences about what this program pays for and need not."""
  out = []
  mesh, times = entry["mesh"], entry["times_s"]
  gathered = _sent(entry, "all-gather", "fsdp")
  if mesh["fsdp"] > 1 and gathered:
    out += _weights(entry, build, gathered)
  turned = sum(
    c["bytes"] for c in entry["largest_collectives"]
    if c["kind"] == "all-reduce" and "jvp" in c["source"]
    and "transpose" not in c["source"]
  )  # fmt: skip
  if turned > 0.1 * max(gathered, 1):
    out.append(
      f"{_gib(turned)} of all-reduce in the forward pass: the partitioner adds up"
      " partial products or padded weights instead of gathering weights, at twice the"
      " bytes or more; try data=4 beside fsdp"
    )
  permutes = sum(
    c["count"] for c in entry["collectives"] if c["kind"] == "collective-permute"
  )
  if permutes > 1000:
    out.append(f"{permutes} collective-permutes a step: collective matmuls are on")
  llama = build.config.model.build().llama
  if llama.scan_unroll > 1 and llama.depth > 8:
    out.append("layers are unrolled: compile memory and code grow with every layer")
  seconds = entry.get("compiler_seconds")
  if seconds is not None and not seconds > 0:
    out.append(f"the compiler's own time estimate is {seconds:.3g} s: of no use")
  if times["ici"] + times["dcn"] > times["compute"]:
    out.append("communication takes longer than compute")
  if entry["fits"] and entry["hbm_bytes"] > NEAR * entry["hbm_capacity"]:
    out.append("within 10 % of the chip's memory: a longer row may not fit")
  return out


def _weights(entry, build, gathered):
  """What sharding the weights costs, and whether it is needed."""
  out = [
    f"every device gathers {_gib(gathered)} of weights a step over fsdp, in each of"
    f" {entry['accumulation']} micro-batch(es), however many devices there are"
  ]
  if build.program != "train":
    return out
  state = jax.tree.leaves(build.shapes[0])
  full = sum(math.prod(x.shape) * x.dtype.itemsize for x in state)
  whole = entry["hbm_bytes"] + full - programs.state_bytes(state)
  if whole < NEAR * entry["hbm_capacity"]:
    out.append(
      f"all weights whole on each device would take about {_gib(whole)} of"
      f" {_gib(entry['hbm_capacity'])} and need no gathering: --mesh=data=-1"
    )
  return out


def _sent(entry, kind, axis):
  return sum(
    c["bytes"] for c in entry["collectives"] if c["kind"] == kind and axis in c["axis"]
  )


def _gib(size):
  return f"{size / 2**30:.1f} GiB"
