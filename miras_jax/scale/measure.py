"""`--measure`: the train step timed on the devices at hand, beside the bound."""

import statistics
import time

import jax

from miras_jax.benchmarks.step import full_batch
from miras_jax.models import flops
from miras_jax.parallel import chips
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.scale import breakdown, hlo, profile, programs, roofline
from miras_jax.scale.compile import with_mesh
from miras_jax.training import initial_state, plan, task


def measure(config, *, mesh=None, steps=5, profiled=False):
  """Entry of a train step on local devices; `measured_s`: the median of `steps`.

  profiled: also `breakdown`, whose seconds are those of a profile of `steps` more.
  """
  config, notes = programs.fit(with_mesh(config, mesh), jax.device_count())
  grid = mesh_lib.make_mesh(config.mesh)
  with jax.set_mesh(grid):
    build = programs.build("train", config, grid)
    start = time.perf_counter()
    executable = build.jitted.lower(*build.shapes).compile()
    compile_s = time.perf_counter() - start
    state, batch = _arrays(config, build)
    seconds = []
    for _ in range(steps + 1):  # the first warms up
      start = time.perf_counter()
      state, metrics = executable(state, batch)
      jax.block_until_ready((state, metrics))
      seconds.append(time.perf_counter() - start)
    rows = _profile(executable, state, batch, steps) if profiled else []
  entry = _entry(config, build, executable, notes) | {"breakdown": rows}
  median = statistics.median(seconds[1:])
  return entry | {
    "measured_s": median,
    "measured_examples_per_s": entry["batch_size"] * entry["pack"] / median,
    "measured_all_s": seconds[1:],
    "compile_s": compile_s,
  }


def _profile(executable, state, batch, steps):
  """Rows of a breakdown with the seconds that were measured."""

  def run():
    nonlocal state
    state, metrics = executable(state, batch)
    return metrics

  found = profile.seconds(run, steps)
  return breakdown.rows(hlo.parse(executable.as_text()), measured=found)


def _arrays(config, build):
  """A fresh state and a full batch, on the devices."""
  made = task.model_task(config)
  state_shapes, batch_shapes = build.shapes
  _, parts = plan.make_plan(made, build.mesh)
  state = initial_state.load(made, state_shapes, parts.tx)
  batch = full_batch(config.model.build(), config)
  return state, {
    k: jax.device_put(batch[k], x.sharding) for k, x in batch_shapes.items()
  }


def _entry(config, build, executable, notes):
  devices = jax.devices()
  chip = chips.find(devices[0].device_kind)
  found = flops.example(config)
  memory = executable.memory_analysis()
  peak = getattr(memory, "peak_memory_in_bytes", 0) or (
    memory.argument_size_in_bytes + memory.temp_size_in_bytes
  )
  rows = config.batch_size
  entry = {
    "topology": f"local {len(devices)} x {devices[0].device_kind}",
    "program": "train",
    "source": "measured",
    "chip": chip.name if chip else devices[0].device_kind,
    "devices": len(devices),
    "chips": len(devices),
    "mesh": dict(build.mesh.shape),
    "model": config.model.variant,
    "length": config.data.max_len,
    "batch_size": rows,
    "pack": config.data.pack,
    "accumulation": config.optim.accumulation,
    "hbm_capacity": int(chip.hbm_bytes) if chip else 0,
    "hbm_bytes": int(peak),
    "fits": True,
    "flops": None,
    "flops_useful": found.useful * rows / len(devices),
    "flops_analytic": found.executed * rows / len(devices),
    "hbm_traffic": None,
    "collectives": [],
    "tokens_per_step": rows * config.data.max_len,
    "step_time_bound_s": None,
    "mfu_ceiling": None,
    "notes": list(notes),
    "traps": [],
  }
  if chip:
    times = {"compute": entry["flops_analytic"] / chip.peak_flops}
    entry |= roofline.rates(entry, times, chip.peak_flops)
  return entry
