"""FLOPs and HBM bytes of a compiled module, loops multiplied out.

The compiler's own `cost_analysis()` counts every loop body once and no Pallas kernel.
Here each convolution (XLA:TPU's form of a matrix product) counts its multiply-adds at
the positions that exist, and each splash kernel the tiles that it visits.
"""

import math
import re

from miras_jax.scale import hlo

# Neither moves data nor reads HBM by itself, or is counted where it ends.
FREE = frozenset(
  "parameter constant tuple get-tuple-element bitcast while conditional call after-all"
  " partition-id replica-id opt-barrier copy-done slice-done all-gather-done"
  " all-reduce-done collective-permute-done send-done recv-done async-done iota"
  " add-dependency domain".split()
)
SPLASH = {"fwd": (1, 1), "dq": (2, 1), "dkv": (2, 2)}  # passes over (qk, v) widths


def flops(module):
  """{"matmul": products outside kernels, "kernels": inside splash attention}."""
  found = {"matmul": 0, "kernels": 0}
  for visit in hlo.walk(module):
    op = visit.instruction
    kind = "kernels" if op.opcode == "custom-call" else "matmul"
    found[kind] += visit.times * _own_work(op, module.computations[visit.computation])
  return found


def work(module, op, computation):
  """FLOPs of one run of an instruction, with what a fusion holds."""
  own = _own_work(op, module.computations[computation])
  if op.opcode != "fusion":
    return own
  return own + sum(
    work(module, inner, name)
    for name in op.called("calls")
    for inner in module.computations[name].values()
  )


def _own_work(op, scope):
  if op.opcode in ("convolution", "dot"):
    return _product(op, scope)
  if op.opcode == "custom-call" and "splash_m" in op.name:
    return _splash(op, scope)
  return 0


def _product(op, scope):
  operands = [scope[name].shapes[0] for name in op.operands[:2] if name in scope]
  if len(operands) < 2:
    return 0
  if op.opcode == "dot":
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", op.attributes)
    contracted = math.prod(operands[0].dims[int(d)] for d in dims[1].split(",") if d)
    return 2 * op.shapes[0].elements * contracted
  return _convolution(op, *operands)


def _convolution(op, left, right):
  """2 x batch x features out x features in a group x pairs of positions that meet."""
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)
  lhs, rhs, out = labels[1], labels[2], labels[3]
  window = _window(op.attributes)
  pairs = 1
  for label in (c for c in out if c.isdigit()):
    pairs *= _meetings(
      size=left.dims[lhs.index(label)],
      kernel=right.dims[rhs.index(label)],
      out=op.shapes[0].dims[out.index(label)],
      **window(int(label)),
    )
  batch = op.shapes[0].dims[out.index("b")]
  features = op.shapes[0].dims[out.index("f")]
  return 2 * batch * features * right.dims[rhs.index("i")] * pairs


def _window(attributes):
  """Dimension -> its stride, padding and dilations, from `window={...}`."""
  found = re.search(r"window=\{([^}]*)\}", attributes)
  text = found[1] if found else ""

  def values(key):
    match = re.search(rf"\b{key}=(\S+)", text)
    return match[1].split("x") if match else None

  # fmt: off
  stride, pad, lhs, rhs = map(values, ("stride", "pad", "lhs_dilate", "rhs_dilate"))
  # fmt: on

  def of(i):
    low = int(pad[i].split("_")[0]) if pad else 0
    pick = lambda v: int(v[i]) if v else 1  # noqa: E731
    return {"stride": pick(stride), "low": low, "dilate": pick(lhs), "step": pick(rhs)}

  return of


def _meetings(*, size, kernel, out, stride, low, dilate, step):
  """Pairs (output, kernel position) that meet an input, not padding or a hole."""
  if kernel == 1 and dilate == 1 and low == 0:
    return out
  last, count = (size - 1) * dilate, 0
  for k in range(kernel):
    start = k * step - low
    if dilate == 1:
      first = -(start // stride) if start < 0 else 0
      stop = (last - start) // stride
      count += max(0, min(out - 1, stop) - first + 1)
    else:
      places = (o * stride + start for o in range(out))
      count += sum(0 <= p <= last and p % dilate == 0 for p in places)
  return count


def _splash(op, scope):
  """A kernel of attention: q, k, v are its first operands of heads and width. A causal
  one reads the positions of its queries too, one without a mask visits every tile."""
  arrays = [scope[name].shapes[0] for name in op.operands if name in scope]
  q, k, v = [a for a in arrays if len(a.dims) >= 3 and a.dtype in ("bf16", "f32")][:3]
  kind = next(name for name in SPLASH if f"_{name}" in op.name)
  passes_qk, passes_v = SPLASH[kind]
  length = q.dims[-2]
  heads = math.prod(q.dims[:-2])
  width = passes_qk * q.dims[-1] + passes_v * v.dims[-1]
  causal = any(a.dtype == "s32" and length in a.dims for a in arrays)
  share = visited(length) if causal else 1
  return 2 * heads * length * k.dims[-2] * width * share


def visited(length, block=None):
  """Share of the tiles that causal attention visits: the diagonal whole."""
  from miras_jax.models.splash import BLOCKS

  block = block or next((b for b in BLOCKS if length % b == 0), length)
  tiles = length // block
  return (tiles + 1) / (2 * tiles)


def traffic(module):
  """HBM bytes read and written in a step, as the schedule's instructions state them.

  What is on-chip already (memory space S(1)) is free; a slice reads what it takes, an
  update in place writes what it changes. Reuse of a tile within one fusion is not
  modelled, so this is what must move, not what may.
  """
  total = 0
  for visit in hlo.walk(module):
    if not visit.fused and visit.instruction.opcode not in FREE:
      total += visit.times * moved(module, visit)
  return total


def moved(module, visit):
  """HBM bytes of one run of an instruction that is in no fusion and not FREE."""
  op, scope = visit.instruction, module.computations[visit.computation]
  operands = [scope.get(name) for name in op.operands]
  if op.opcode == "custom-call" and "tpu_custom_call" not in op.attributes:
    return 0
  if op.opcode in ("dynamic-slice", "slice", "slice-start", "gather"):
    return 2 * _hbm(op.shapes[:1]) if op.opcode != "slice-start" else _least(op)
  if op.opcode == "copy-start":
    return _least(op)
  if op.opcode == "dynamic-update-slice":
    return 2 * _hbm(operands[1].shapes) if operands[1] else 0
  if op.opcode == "fusion":
    return _fusion(module, op, operands)
  read = sum(_hbm(o.shapes) for o in operands if o is not None)
  return read + _hbm(op.shapes)


def _least(op):
  """A copy between memories: its bytes once for each end that is in HBM."""
  ends = [s for s in op.shapes[:2] if s.elements]
  small = min((s.bytes for s in ends), default=0)
  return small * sum(s.in_hbm for s in ends)


def _fusion(module, op, operands):
  """Parameters that are only sliced count their slices; roots updated in place too."""
  inside = module.computations[op.called("calls")[0]]
  names = _parameters(inside)
  read = 0
  for number, outer in enumerate(operands):
    if outer is not None and number in names:
      read += _read(module, inside, names[number], _hbm(outer.shapes))
  kept = sum(whole - change for whole, change in _updates(module, inside))
  return read + max(_hbm(op.shapes) - kept, 0)


def _parameters(computation):
  """{number: name} of a computation's parameters."""
  return {
    int(re.search(r"literal=(\d+)", i.attributes)[1]): i.name
    for i in computation.values()
    if i.opcode == "parameter"
  }


def _read(module, computation, name, whole):
  """Bytes, of `whole`, that a computation reads of its value `name`."""
  users = [i for i in computation.values() if name in i.operands]
  return min(sum(_read_by(u, module, computation, name, whole) for u in users), whole)


def _read_by(user, module, computation, name, whole):
  """Of one user: through bitcasts, and into fusions in a fusion, where slices hide."""
  first = user.operands[0] == name
  if user.opcode == "bitcast":
    return _read(module, computation, user.name, whole)
  if user.opcode in ("dynamic-slice", "slice", "gather") and first:
    return user.bytes
  if user.opcode == "dynamic-update-slice" and first:
    return 0
  if user.opcode != "fusion":
    return whole
  inner = module.computations[user.called("calls")[0]]
  names = _parameters(inner)
  places = [i for i, operand in enumerate(user.operands) if operand == name]
  return sum(_read(module, inner, names[i], whole) for i in places)


def _updates(module, computation):
  """(bytes of the array, bytes of the change) of each update in place."""
  for i in computation.values():
    if i.opcode == "dynamic-update-slice":
      change = computation.get(i.operands[1])
      yield i.bytes, change.bytes if change else 0
    elif i.opcode == "fusion":
      yield from _updates(module, module.computations[i.called("calls")[0]])


def _hbm(shapes):
  return sum(s.bytes for s in shapes if s.in_hbm)
