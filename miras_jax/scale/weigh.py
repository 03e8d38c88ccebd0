"""Compiles one program for a topology and reads what a device needs and does.

`weigh` returns one entry of scale.json. All numbers are per device and step unless
their name says otherwise.
"""

import re
import time

import jax

from miras_jax.models import flops
from miras_jax.planning.topology import quiet_stderr
from miras_jax.scale import (
  arrays,
  breakdown,
  collectives,
  cost,
  hlo,
  programs,
  roofline,
)

# Collective matmuls hide gathers in loops of permutes, where nobody can count them.
OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
LARGEST = 6  # buffers named when a program does not fit


def weigh(build, topology, *, source="compiled"):
  """The entry of a programs.Build; `fits` is False when XLA says so."""
  entry = describe(build, topology) | {"source": source}
  start = time.perf_counter()
  try:
    # A persistent cache would hide the seconds and is not for these devices.
    lowered = build.jitted.lower(*build.shapes)
    with quiet_stderr():
      executable = lowered.compile(compiler_options=dict(OPTIONS))
  except jax.errors.JaxRuntimeError as error:
    problem = too_large(str(error))
    if problem is None:
      raise
    entry |= problem | {"compile_s": time.perf_counter() - start}
    if not entry["largest_buffers"]:
      # Refused before buffers were laid out: the compiler's message names none.
      entry["largest_buffers"] = arrays.largest(build, LARGEST)
      entry["notes"].append(
        "the compiler gave up before it laid out buffers: named are the largest arrays"
        f" that the program computes, as if each was cut over all {entry['devices']}"
        " device(s); some never exist whole"
      )
    return entry
  entry["compile_s"] = time.perf_counter() - start
  entry |= memory(executable, topology.chip)
  entry |= count(executable.as_text(), build.mesh, topology.chip)
  entry |= compilers_own(executable.cost_analysis())
  entry |= roofline.bounds(entry, topology, build.mesh)
  entry["traps"] = roofline.traps(entry, build)
  return entry


def describe(build, topology):
  """What is known before compiling."""
  config, devices = build.config, len(topology.devices)
  accumulation = config.optim.accumulation
  rows = config.batch_size
  cached = build.program in ("train", "eval") and "image_tokens" in build.shapes[1]
  extra = {"features": build.features} if build.program == "cache" else {}
  found = flops.example(config, program=build.program, cached=cached, **extra)
  image = config.model.build().num_image_tokens
  tokens = {"decode": 1, "read": 0, "cache": image, "encode": image}
  tokens = tokens.get(build.program, config.data.max_len)
  return {
    "topology": topology.name,
    "program": build.program,
    "chip": topology.chip.name,
    "devices": devices,
    "chips": devices // topology.chip.devices,
    "mesh": dict(build.mesh.shape),
    "model": config.model.variant,
    "cached": cached,
    "length": config.data.max_len,
    "batch_size": rows,
    "pack": build.conversations,
    "accumulation": accumulation if build.program == "train" else 1,
    "remat": config.model.build().llama.remat,
    "attention": config.model.build().llama.attention,
    "hbm_capacity": int(topology.chip.hbm_bytes),
    "argument_bytes": programs.state_bytes(build.shapes),
    "flops_useful": found.useful * rows / devices,
    "flops_analytic": found.executed * rows / devices,
    "tokens_per_step": rows * tokens,
    "compiler_options": OPTIONS,
    "notes": list(build.notes),
    "traps": [],
  }


def memory(executable, chip):
  """Peak and its parts. `temp_bytes` over-reports; the peak is what must fit."""
  found = executable.memory_analysis()
  peak = getattr(found, "peak_memory_in_bytes", 0) or (
    found.argument_size_in_bytes + found.temp_size_in_bytes
  )
  return {
    "fits": peak <= chip.hbm_bytes,
    "hbm_bytes": int(peak),
    "argument_bytes": int(found.argument_size_in_bytes),
    "temp_bytes": int(found.temp_size_in_bytes),
    "output_bytes": int(found.output_size_in_bytes),
    "code_bytes": int(found.generated_code_size_in_bytes),
  }


def count(text, mesh, chip):
  """FLOPs, HBM traffic and collectives, read from the compiled module's text."""
  module = hlo.parse(text)
  work = cost.flops(module)
  found = collectives.find(hlo.walk(module), dict(mesh.shape))
  largest = sorted(found, key=lambda c: -c.bytes)[:12]
  return {
    "flops": float(work["matmul"] + work["kernels"]),
    "flops_in_kernels": float(work["kernels"]),
    "hbm_traffic": int(cost.traffic(module)),
    "collectives": collectives.totals(found),
    "largest_collectives": [c._asdict() for c in largest],
    "breakdown": breakdown.rows(module, chip),
  }


def compilers_own(analysis):
  """The compiler's totals, shown beside ours: loop bodies once, kernels never."""
  return {
    "compiler_flops": analysis.get("flops"),
    "compiler_bytes": analysis.get("bytes accessed"),
    "compiler_seconds": analysis.get("optimal_seconds"),
  }


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"


def too_large(message):
  """{fits, hbm_bytes, problem, largest_buffers} of an out-of-memory error, or None."""
  if "RESOURCE_EXHAUSTED" not in message and "OutOfMemory" not in message and (
    "CompileTimeHbmOom" not in message
  ):  # fmt: skip
    return None
  needed = None
  if found := re.search(rf"HLO temporaries \({_SIZE}\) exceeds", message):
    needed = _bytes(*found.groups())
  elif found := re.search(rf"Used {_SIZE} of", message):
    needed = _bytes(*found.groups())
    if over := re.search(rf"Exceeded hbm capacity by {_SIZE}", message):
      needed = max(needed, _bytes(*over.groups()) + needed)
  first = next((x for x in message.splitlines() if "emory" in x), message[:200])
  return {
    "fits": False,
    "hbm_bytes": needed,
    "problem": " ".join(first.split())[:300],
    "largest_buffers": _buffers(message),
    "step_time_bound_s": None,
    "mfu_ceiling": None,
    "flops": None,
    "hbm_traffic": None,
    "collectives": [],
  }


def _buffers(message):
  """The largest allocations of the error's list: [{size, shape, op_name}]."""
  out = []
  for block in re.split(r"\n\s*\d+\. ", message)[1:]:
    size = re.search(rf"Size: {_SIZE}", block)
    if not size:
      continue
    shape = re.search(r"Shape: (\S+)", block)
    operator = re.search(r'op_name="([^"]*)"', block) or re.search(
      r"XLA label: (.{0,120})", block
    )
    out.append({
      "bytes": _bytes(*size.groups()),
      "shape": shape[1] if shape else "",
      "op_name": operator[1] if operator else "",
    })  # fmt: skip
  return sorted(out, key=lambda b: -b["bytes"])[:LARGEST]


def _bytes(number, unit):
  return int(float(number) * _UNITS[unit])
