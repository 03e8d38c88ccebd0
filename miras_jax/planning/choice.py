"""`mesh.plan`: who chooses how a run is laid over its devices.

Empty, the config does. "auto": the fastest choice that the memory model lets fit, for
the devices that are there. A path: what `miras scale --search --write` put there. All
of it follows from the config and the devices alone, so that every process chooses the
same.

A run that goes on takes the choice it has, and its rows and packing in any case. On
other devices than that choice was for, mesh, remat policy and micro-batches are chosen
anew: they change how a step is computed, not what.
"""

import dataclasses

from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning import plan_file, search, topology

AUTO = "auto"
GIB = 2**30


def decide(config, devices, saved=None):
  """(RunConfig with its plan, lines that say what was chosen and why).

  devices: those of `jax.devices()`. saved: the RunConfig of the run that goes on.
  """
  if not config.mesh.plan:
    return config, []
  here, lines = topology.label(devices), []
  if saved is not None:
    config = search.with_pack(config, saved.data.pack)
    was = saved.mesh.planned
    if was == here:
      kept = plan_file.applied(config, plan_file.fields(saved))
      return _noted(kept, here), [_head(kept, here, "as when the run began")]
    lines = [f"mesh.plan: the run was laid over {was or 'devices by hand'}, here are"
             f" {here}: laid anew, its rows stay"]  # fmt: skip
  place = topology.of_devices(devices)
  if config.mesh.plan != AUTO:
    chosen = plan_file.read(
      config.mesh.plan, config, here, len(devices), cached=bool(config.data.cache)
    )
    why = [_head(chosen, here, "as the file says")]
  elif place is None:
    chosen, why = _plain(config, devices, saved)
  else:
    chosen, why = for_hardware(config, place, devices=devices, saved=saved)
  return _noted(chosen, here), lines + why


def for_place(config, place, *, cached=None):
  """`decide` for a `topology.Hardware` that need not be there."""
  if not config.mesh.plan:
    return config, []
  if config.mesh.plan == AUTO:
    return for_hardware(config, place, cached=cached)
  cached = bool(config.data.cache) if cached is None else cached
  chosen = plan_file.read(
    config.mesh.plan, config, place.name, place.num_devices, cached=cached
  )
  return chosen, [_head(chosen, place.name, "as the file says")]


def for_hardware(config, place, *, cached=None, devices=None, saved=None):
  """(RunConfig, lines) of "auto" on a `topology.Hardware`.

  cached: whether features come from a cache; None: as the config says. devices: what
  the mesh has to be laid over, where they are there. saved: the RunConfig of the run
  that goes on, whose packing stays.
  """
  cached = bool(config.data.cache) if cached is None else cached
  found = search.candidates(config, place, cached=cached, exact=True)
  if saved is not None:
    found = [one for one in found if one.config.data.pack == saved.data.pack]
  if not found:
    raise UserError(undivided(config, place.name, place.num_devices, saved))
  fitting = search.fitting(found, place)
  chosen = next((x for x in fitting if _can_be_laid(x.mesh, devices)), None)
  if chosen is None:
    raise UserError(f"mesh.plan=auto: no mesh that fits can be laid over {place.name}")
  entry = chosen.entry
  numbers = (
    f"about {entry['hbm_bytes'] / GIB:.1f} of {entry['hbm_capacity'] / GIB:.1f} GiB,"
    f" {entry['step_time_no_overlap_s']:.2f} s a step by formulas"
  )
  lines = [_head(chosen.config, place.name, numbers)]
  why = search.reasons(found, chosen, search.as_given(config, place, cached=cached))
  return chosen.config, lines + [f"  {x}" for x in why]


def _head(config, here, text):
  return f"mesh.plan={config.mesh.plan} on {here}: {search.text_of(config)}; {text}"


def _noted(config, here):
  mesh = dataclasses.replace(config.mesh, planned=here)
  return dataclasses.replace(config, mesh=mesh)


def _plain(config, devices, saved):
  """Data parallel alone, for devices whose memory nobody knows."""
  slices = topology.count_slices(devices)
  sizes = dict.fromkeys(mesh_lib.AXES, 1)
  sizes |= {"dcn_data": slices, "data": len(devices) // slices}
  mesh = dataclasses.replace(config.mesh, **sizes)
  rows = config.batch_size // len(devices)
  if not rows or config.batch_size % len(devices):
    raise UserError(undivided(config, topology.label(devices), len(devices), saved))
  most = config.optim.accumulation
  accumulation = max(n for n in search.divisors(rows) if n <= most)
  optim = dataclasses.replace(config.optim, accumulation=accumulation)
  config = dataclasses.replace(config, mesh=mesh, optim=optim)
  kind = devices[0].device_kind
  text = f"how much memory a {kind!r} has is not known here: each holds all weights"
  return config, [_head(config, topology.label(devices), text)]


def _can_be_laid(mesh, devices):
  if devices is None:
    return True
  try:
    mesh_lib.make_mesh(mesh, devices)
  except (NotImplementedError, ValueError):
    return False
  return True


def undivided(config, place, count, saved=None) -> str:
  """One line: the batch cuts into no mesh of `count` devices; what would."""
  rows, up = config.batch_size, -(-config.batch_size // count) * count
  if saved is not None:
    remedy = (
      f"the run keeps its rows: go on with a number of devices that divides {rows}"
    )
  else:
    remedy = (
      f"set --config.batch_size={up}, or name the mesh with --config.mesh.plan= and"
      " --config.mesh.AXIS=SIZE"
    )
  return (
    f"mesh.plan=auto: batch_size={rows} rows do not divide over the {count} devices of"
    f" {place} by any mesh; {remedy}"
  )
