"""Where a compiled program's bytes and FLOPs go: by module, pass and kind of operation.

Every instruction of the schedule is put down to the module whose name it carries (a
fusion to that of its root; a kernel, which has lost its own, to that of what takes its
result), to the pass it belongs to and to what it mostly does. Rows
add up to the program's HBM traffic and FLOPs. An instruction takes at least the longer
of its compute and its memory time; those times add up to more than the roofline bound
of the whole, in which everything overlaps.
"""

import re
from typing import NamedTuple

from miras_jax.scale import collectives, cost, hlo

DEPTH = 4  # names of a path that tell modules apart
REACH = 8  # instructions that a name may be away
# Parts of an operation's name that are no module; the last is an einsum's formula.
_WRAPPERS = re.compile(
  r"^(while|body|cond|closed_call|checkpoint|remat\d*|rematted_computation|shard_map"
  r"|branch_\d+_fun|custom_(jvp|vjp)_call.*|named|core_call|xla_call|pjit"
  r"|[A-Za-z,]+->[A-Za-z]*)$"
)
_CALL = re.compile(r"^(jit|pjit|jvp|transpose|vmap|remat|checkpoint)\((.*)\)$")
_MOVES = frozenset(
  "copy transpose bitcast slice dynamic-slice concatenate pad broadcast reshape reverse"
  " gather parameter constant iota tuple get-tuple-element".split()
)


class Part(NamedTuple):
  module: str
  phase: str  # forward, backward, again (computed again in the backward pass), update
  kind: str


def rows(module, chip=None, measured=None):
  """[{module, phase, kind, bytes, flops, seconds, count}], the longest first.

  module: a parsed `hlo.Module`. chip: whose peaks make the seconds; or else measured:
  the seconds of instructions by name, all runs of each (`profile.seconds`).
  """
  sums, measured = {}, dict(measured or {})
  names = _Names(module)
  for visit in hlo.walk(module):
    op = visit.instruction
    if visit.fused or op.opcode in cost.FREE:
      continue
    moved = cost.moved(module, visit)
    work = cost.work(module, op, visit.computation)
    if not moved and not work:
      continue
    part = Part(*split_name(names.of(visit)), kind_of(module, op))
    entry = sums.setdefault(part, [0, 0, 0.0, 0])
    entry[0] += visit.times * moved
    entry[1] += visit.times * work
    entry[3] += visit.times
    if chip:
      slowest = max(work / chip.peak_flops, moved / chip.hbm_bandwidth)
      entry[2] += visit.times * slowest
    else:
      entry[2] += measured.pop(op.name, 0.0)
  names = ("bytes", "flops", "seconds", "count")
  out = [p._asdict() | dict(zip(names, s, strict=True)) for p, s in sums.items()]
  return sorted(out, key=lambda row: (-row["seconds"], -row["bytes"]))


class _Names:
  """The names of instructions, those of neighbours where they have none."""

  def __init__(self, module):
    self._module, self._users = module, {}

  def of(self, visit) -> str:
    """The name of an instruction; of what takes its result, else of what it takes."""
    if name := visit.instruction.op_name:
      return name
    around = self._module.computations[visit.computation]
    users = self._users_in(visit.computation)
    after = _nearest(around, visit.instruction.name, lambda n: users.get(n, ()))
    return after or _nearest(
      around, visit.instruction.name, lambda n: around[n].operands
    )

  def _users_in(self, computation):
    if computation not in self._users:
      users = self._users[computation] = {}
      for op in self._module.computations[computation].values():
        for name in op.operands:
          users.setdefault(name, []).append(op.name)
    return self._users[computation]


def _nearest(instructions, start, step):
  """The first name that `step` leads to from an instruction; "" if none is near."""
  seen, front = {start}, [start]
  for _ in range(REACH):
    front = [n for at in front for n in step(at) if n in instructions]
    front = [n for n in dict.fromkeys(front) if n not in seen]
    if name := next(filter(None, (instructions[n].op_name for n in front)), ""):
      return name
    seen.update(front)
  return ""


def split_name(name):
  """(path of modules, pass) of an operation's name, as JAX writes them."""
  phase = "forward" if "jvp(" in name else "update"
  if "transpose(" in name:
    phase = "backward"
  if "rematted_computation" in name:
    phase = "again"
  path = []
  for part in name.split("/")[:-1]:
    while found := _CALL.match(part):
      part = "" if found[1] in ("jit", "pjit") else found[2]
    if part and not _WRAPPERS.match(part) and not _is_method(part, path):
      part = re.sub(r"_\d+$", "_*", part)
      path += [part] if part not in path[-1:] else []
  return "/".join(path[:DEPTH]) or "-", phase


def _is_method(part, path):
  """Whether it is a method of the module that the path has come to: "llm._run"."""
  owner, dot, _ = part.partition(".")
  if not dot or not path:
    return False
  if path[-1] != owner and path[-1].partition(".")[0] != owner:
    path.append(owner)
  return True


def kind_of(module, op):
  """What an instruction mostly does."""
  opcode = op.opcode.removesuffix("-start").removesuffix("-done")
  if opcode in collectives.KINDS or opcode in ("send", "recv"):
    return "collective"
  if opcode == "custom-call":
    return "kernel"
  inside = _opcodes(module, op) if opcode == "fusion" else {opcode}
  if inside & {"convolution", "dot"}:
    return "product"
  if "custom-call" in inside:
    return "kernel"
  if inside & {"dynamic-update-slice", "scatter"}:
    return "write in place"
  if inside <= _MOVES:
    return "copy"
  if inside <= _MOVES | {"convert"}:
    return "convert"
  return "reduction" if inside & {"reduce", "reduce-window"} else "element-wise"


def _opcodes(module, op):
  found = set()
  for name in op.called("calls"):
    for inner in module.computations[name].values():
      found |= _opcodes(module, inner) if inner.opcode == "fusion" else {inner.opcode}
  return found
