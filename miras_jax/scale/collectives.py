"""Bytes that one device sends a step: collective kinds, mesh axes, ICI and DCN apart.

Counted as ring algorithms send them, of n devices in a group: all-gather and
reduce-scatter (n-1)/n of the whole array, all-reduce twice that, all-to-all (n-1)/n of
the local one, collective-permute the array itself. An all-reduce that XLA fuses with a
slice sends half of what is counted here.

Asynchronous fusions list one collective several times: copies in fusions that share a
channel and a shape inside the same loops count once. Outside of fusions every one
counts: all that a `shard_map` sends has the same channel.
"""

import math
import re
from typing import NamedTuple

import numpy as np

KINDS = (
  "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
  "ragged-all-to-all", "collective-broadcast",
)  # fmt: skip
MEGASCALE = "_xla_megascale_transfer_type"


class Collective(NamedTuple):
  kind: str
  axis: str  # mesh axes joined by "+", or "?" where groups follow none
  network: str  # "ici" or "dcn"
  bytes: int  # sent by a device in a step
  count: int  # runs in a step
  source: str  # where in the model


def find(visits, mesh_shape):
  """Every collective of a module, clones dropped.

  visits: `hlo.walk`. mesh_shape: {axis: size} in the order of the mesh.
  """
  found = [(visit, _collective(visit, mesh_shape)) for visit in visits]
  found = [(visit, made) for visit, made in found if made is not None]
  apart = {_nest(visit) for visit, _ in found if not visit.fused}
  out = {}
  for visit, made in found:
    nest, shape = _nest(visit), max(s.dims for s in visit.instruction.shapes)
    if not visit.fused:
      out[nest, visit.instruction.name] = made
    elif nest not in apart:
      out.setdefault((nest, shape), made)
  return list(out.values())


def _nest(visit):
  """What copies of a collective have in common: its channel and the loops around it."""
  channel = re.search(r"channel_id=(\d+)", visit.instruction.attributes)
  return channel[1] if channel else visit.instruction.name, visit.loops


def totals(found):
  """[{kind, axis, network, bytes, count}], largest first: Collectives added up."""
  sums = {}
  for c in found:
    entry = sums.setdefault((c.kind, c.axis, c.network), [0, 0])
    entry[0] += c.bytes
    entry[1] += c.count
  rows = [
    {"kind": k, "axis": a, "network": n, "bytes": b, "count": c}
    for (k, a, n), (b, c) in sums.items()
  ]
  return sorted(rows, key=lambda r: -r["bytes"])


def _collective(visit, mesh_shape):
  instruction, times = visit.instruction, visit.times
  opcode = instruction.opcode.removesuffix("-start")
  if opcode == "send" and MEGASCALE in instruction.attributes:
    return _between_slices(instruction, times)
  if opcode not in KINDS or instruction.opcode.endswith("-done"):
    return None
  groups = _groups(instruction.attributes, math.prod(mesh_shape.values()))
  size = len(groups[0]) if groups else 1
  if size < 2:
    return None
  axis = _axes(groups, mesh_shape)
  sent = wire_bytes(opcode, _whole_bytes(instruction), size)
  network = "dcn" if axis.startswith("dcn_data") else "ici"
  return Collective(opcode, axis, network, sent * times, times, instruction.op_name)


def _between_slices(instruction, times):
  kind = re.search(rf'{MEGASCALE}="?(\w+)', instruction.attributes)
  kind = kind[1].lower().replace("_", "-") if kind else "send"
  return Collective(
    kind, "dcn_data", "dcn", instruction.shapes[0].bytes * times, times,
    instruction.op_name,
  )  # fmt: skip


def wire_bytes(kind, size, group):
  """Ring bytes that one of `group` devices sends; `size`: the larger of in and out."""
  if kind == "collective-permute":
    return size
  factor = 2 if kind == "all-reduce" else 1
  return factor * size * (group - 1) // group


def _whole_bytes(instruction):
  """Bytes of the result; a started operation's result holds its operand too."""
  sizes = [s.bytes for s in instruction.shapes]
  if instruction.opcode.endswith("-start") and len(sizes) > 1:
    return max(sizes)
  if instruction.opcode == "reduce-scatter":  # its operand is the larger
    found = re.search(r"replica_groups=\[\d+,(\d+)\]", instruction.attributes)
    groups = _groups(instruction.attributes, 0)
    return sum(sizes) * (len(groups[0]) if groups else int(found[1]) if found else 1)
  return sum(sizes)


def _groups(attributes, num_devices):
  """Device groups, positions in the mesh's flat order; [] when there are none."""
  if found := re.search(r"source_target_pairs=\{(\{.*?\})\}", attributes):
    pairs = re.findall(r"\{(\d+),(\d+)\}", found[1])
    return [[int(a), int(b)] for a, b in pairs if a != b]
  if found := re.search(r"replica_groups=mesh(\[[^\]]*\])(.*?)\{([^}]*)\}", attributes):
    return _mesh_groups(found[1], found[2], found[3])
  iota = r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
  if found := re.search(iota, attributes):
    order = np.arange(int(found[1]) * int(found[2])).reshape(_ints(found[3]))
    if found[4]:
      order = order.transpose(_ints(found[4]))
    return order.reshape(int(found[1]), int(found[2])).tolist()
  if found := re.search(r"replica_groups=\{(\{[^=]*?\})\}", attributes):
    return [_ints(g) for g in re.findall(r"\{([\d,]+)\}", found[1])]
  if "replica_groups={}" in attributes and num_devices:
    return [list(range(num_devices))]
  return []


def _mesh_groups(mesh, between, picked):
  """`mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}`: groups along an axis.

  Devices are counted in the order given, `[2,4]` transposed by `T(1,0)`, and then laid
  out in the sizes of the mesh.
  """
  names = re.findall(r"'([^']+)'=(\d+)", mesh)
  sizes = [int(n) for _, n in names]
  order = np.arange(math.prod(sizes))
  if found := re.search(r"\[([\d,]+)\]T\(([\d,]+)\)", between):
    order = order.reshape(_ints(found[1])).transpose(_ints(found[2])).reshape(-1)
  grid = order.reshape(sizes)
  axes = [i for i, (name, _) in enumerate(names) if f"'{name}'" in picked]
  rest = [i for i in range(len(sizes)) if i not in axes]
  group = math.prod(sizes[i] for i in axes)
  return grid.transpose(*rest, *axes).reshape(-1, group).tolist()


def _axes(groups, mesh_shape):
  """Names of the mesh axes along which the members of the first group differ."""
  sizes = tuple(mesh_shape.values())
  if max(groups[0]) >= math.prod(sizes):
    return "?"
  where = np.stack(np.unravel_index(groups[0], sizes))
  varying = [
    name for name, row in zip(mesh_shape, where, strict=True) if len(set(row)) > 1
  ]
  return "+".join(varying) or "?"


def _ints(text):
  return [int(n) for n in text.split(",") if n]
