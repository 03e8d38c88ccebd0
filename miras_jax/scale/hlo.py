"""XLA's compiled module as text -> computations, instructions, how often each runs.

Only what counting needs is parsed. A loop's body is listed once in the text and runs
`trips` times: the constant that its condition compares the counter with.
"""

import math
import re
from typing import NamedTuple

# Bits of an element; sub-byte and packed types included.
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_LINE = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_OPCODE = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
# fmt: off
CALLS = ("calls", "to_apply", "body", "condition", "true_computation",
         "false_computation", "called_computations", "branch_computations")
# fmt: on


class Shape(NamedTuple):
  """One array; `in_hbm` is False for what lives in on-chip memory, S(1) and up."""

  dtype: str
  dims: tuple[int, ...]
  in_hbm: bool = True

  @property
  def elements(self):
    return math.prod(self.dims)

  @property
  def bytes(self):
    return self.elements * bits(self.dtype) // 8


class Instruction(NamedTuple):
  name: str
  opcode: str
  shapes: tuple[Shape, ...]  # of the result; several for a tuple
  operands: tuple[str, ...]
  attributes: str  # what follows the operands
  is_root: bool

  @property
  def bytes(self):
    return sum(s.bytes for s in self.shapes)

  def called(self, *kinds):
    """Names of the computations that the given attributes name."""
    out = []
    for kind in kinds or CALLS:
      if found := re.search(rf"\b{kind}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes):
        out += _NAME.findall(found[1])
    return out

  @property
  def op_name(self):
    found = re.search(r'op_name="([^"]*)"', self.attributes)
    return found[1] if found else ""


class Module(NamedTuple):
  computations: dict[str, dict[str, Instruction]]
  entry: str


class Visit(NamedTuple):
  """An instruction where it runs: how often in a step, inside which loops, in a fusion
  or not."""

  instruction: Instruction
  computation: str
  times: int
  loops: tuple[str, ...]
  fused: bool


def bits(dtype):
  if dtype in _BITS:
    return _BITS[dtype]
  found = re.search(r"\d+", dtype)
  return int(found[0]) if found else 0


def parse_shapes(text):
  """Every array in a result type such as `(bf16[2,3]{1,0:T(8,128)S(1)}, s32[])`."""
  out = []
  for dtype, dims, layout in _ARRAY.findall(text):
    memory = re.search(r"S\((\d+)\)", layout)
    size = tuple(int(d) for d in dims.split(",") if d)
    out.append(Shape(dtype, size, not memory or memory[1] == "0"))
  return tuple(out)


def parse(text):
  """Module of `executable.as_text()`."""
  computations, entry, current = {}, "", None
  for line in text.splitlines():
    if header := _HEADER.match(line):
      current = computations.setdefault(header[2], {})
      entry = header[2] if header[1] else entry
    elif current is not None and (found := _LINE.match(line)):
      instruction = _instruction(found[2], found[3], bool(found[1]))
      if instruction:
        current[instruction.name] = instruction
  if not entry:
    raise ValueError("no ENTRY computation in this text: is it an HLO module?")
  return Module(computations, entry)


def _instruction(name, rest, is_root):
  opcode = _OPCODE.search(rest)
  if not opcode:
    return None
  start, depth = opcode.end(), 1
  end = start
  while end < len(rest) and depth:
    depth += {"(": 1, ")": -1}.get(rest[end], 0)
    end += 1
  inside = rest[start : end - 1]
  operands = tuple(_NAME.findall(inside))
  literal = "" if operands else f" literal={inside}"
  shapes = parse_shapes(rest[: opcode.start()])
  return Instruction(name, opcode[1], shapes, operands, rest[end:] + literal, is_root)


def trips(module, loop):
  """How often a `while` runs; 1 when its condition does not tell."""
  if found := re.search(r'known_trip_count[^\d]*"?n"?[^\d]*(\d+)', loop.attributes):
    return int(found[1])
  condition = module.computations[loop.called("condition")[0]]
  for compare in condition.values():
    if compare.opcode != "compare":
      continue
    for name in compare.operands:
      constant = condition.get(name)
      if constant is not None and constant.opcode == "constant":
        found = re.search(r"literal=(\d+)", constant.attributes)
        return int(found[1]) if found else 1
  # Compared inside a fusion: the one integer constant of the condition.
  constants = [c for c in condition.values() if c.opcode == "constant"]
  found = [re.search(r"literal=(\d+)$", c.attributes) for c in constants]
  return max([int(f[1]) for f in found if f], default=1)


def walk(module):
  """Yields a Visit of every instruction that a step runs."""
  yield from _walk(module, module.entry, 1, (), False)


def _walk(module, name, times, loops, fused):
  for instruction in module.computations[name].values():
    yield Visit(instruction, name, times, loops, fused)
    if instruction.opcode == "while":
      body = instruction.called("body")[0]
      inner = times * trips(module, instruction)
      yield from _walk(module, body, inner, (*loops, body), fused)
    elif instruction.opcode == "conditional":
      branches = instruction.called("branch_computations", "true_computation")
      branches += instruction.called("false_computation")
      for branch in branches:  # both are counted: an upper bound
        yield from _walk(module, branch, times, loops, fused)
    elif instruction.opcode in ("fusion", "call", "async-start", "custom-call"):
      inside = fused or instruction.opcode == "fusion"
      for called in instruction.called("calls", "to_apply", "called_computations"):
        if called in module.computations:
          yield from _walk(module, called, times, loops, inside)
