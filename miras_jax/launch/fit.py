"""Whether a run fits its place: mesh, slices, batch, processes and memory.

Everything that the trainer would refuse on the cluster is refused here, and memory is
that of `miras scale --estimate`: formulas, nothing is compiled.
"""

import dataclasses
import math

from miras_jax.errors import UserError
from miras_jax.launch.place import NAMES
from miras_jax.models import attention_support
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning import choice, model, topology
from miras_jax.training import initial_state

GIB = 2**30


class _Mesh:
  """As much of a Mesh as the checks ask for."""

  def __init__(self, shape):
    self.shape = shape


def check(config, place, *, devices_per_process) -> tuple[dict, list[tuple[str, int]]]:
  """(entry of the estimate, fields to add to the config) of a run that fits.

  entry: as `miras scale --estimate` has it. Raises UserError with a remedy otherwise.
  """
  if not (config.data.dir or config.sources):
    raise UserError("data.dir is empty: name a data set with --config.data.dir=DIR")
  added = []
  if config.mesh.plan:
    config = _planned(config, place)
  elif place.slices > 1 and config.mesh.dcn_data == 1:
    added.append(("mesh.dcn_data", place.slices))
    mesh = dataclasses.replace(config.mesh, dcn_data=place.slices)
    config = dataclasses.replace(config, mesh=mesh)
  sizes = mesh_lib.resolve(config.mesh, place.devices)
  _check_slices(sizes, place)
  llama = config.model.build().llama
  dtype = config.model.dtype
  attention_support.check(llama, sizes["tensor"], place.platform, dtype)
  _check_processes(sizes, devices_per_process)
  entry = model.estimate(config, place.name)
  if not entry["fits"]:
    raise UserError(_too_small(config, place, entry))
  mesh_lib.check_batch(
    config.batch_size, _Mesh(sizes), accumulation=config.optim.accumulation
  )
  if config.data.max_len:
    mesh_lib.check_length(config.data.max_len, _Mesh(sizes))
  initial_state.refuse_random(config)
  return entry, added


def _planned(config, place):
  """The config as `miras train` will lay it over the place by its own `mesh.plan`."""
  hardware = topology.hardware(place.name)
  return choice.for_place(config, hardware)[0]


def _check_slices(sizes, place):
  """Only `dcn_data` may reach over the slow network between slices or nodes."""
  if sizes["dcn_data"] % place.slices:
    raise UserError(
      f"mesh.dcn_data={sizes['dcn_data']} is no multiple of the {place.slices} slices"
      f" or nodes of {place.name}; set --config.mesh.dcn_data={place.slices}"
    )


def _check_processes(sizes, devices):
  """Processes feed whole shares of the batch (parallel/mesh.py's data_host)."""
  inner = sizes["tensor"] * sizes["sequence"]
  if inner % devices and devices % inner:
    raise UserError(
      f"mesh.tensor={sizes['tensor']} x mesh.sequence={sizes['sequence']} neither"
      f" divides the {devices} devices of a process nor is a multiple of them; take"
      f" --config.mesh.tensor={math.gcd(inner, devices)} --config.mesh.sequence=1"
    )


def _too_small(config, place, entry):
  """One line: what it takes, what there is, and the first place that would do."""
  return (
    f"{config.model.variant} with mesh {_text(entry['mesh'])} takes about"
    f" {entry['hbm_bytes'] / GIB:.1f} of {entry['hbm_capacity'] / GIB:.1f} GiB a device"
    f" on {place.name}; {_remedy(config, place)}"
  )


def _remedy(config, place):
  """Another mesh on this place, else the smallest place of its kind, else of any."""
  if best := _best_mesh(config, place.name):
    return f"this mesh fits: {_options(best)}"
  for generation in (place.generation, *NAMES):
    for shape in topology.KINDS[generation][1]:
      name = f"{generation}:{shape}{f'x{place.slices}' * (place.slices > 1)}"
      if best := _best_mesh(config, name):
        return f"--topology={name} would do, with {_options(best)}"
  return (
    "no slice known here holds it: shorten its rows (data.max_len, data.pack), take"
    " --config.model.overrides.llama.remat=full, or a smaller model"
  )


def _best_mesh(config, name):
  """The MeshConfig of the fastest estimate that fits, or None.

  One that the batch divides goes first.
  """
  place, found = topology.hardware(name), []
  for mesh in model.meshes(config, place.num_devices, place.num_slices):
    entry = model.estimate(config, name, mesh=mesh)
    if entry["fits"]:
      other_batch = entry["batch_size"] != config.batch_size
      seconds = entry["step_time_no_overlap_s"] / entry["batch_size"]
      found.append((other_batch, seconds, mesh.sizes, mesh))
  return min(found, key=lambda one: one[:2])[-1] if found else None


def _options(mesh):
  outer = mesh.sizes | ({"dcn_data": None} if mesh.dcn_data == 1 else {})
  named = {n: s for n, s in outer.items() if s and n != "sequence"}
  return " ".join(f"--config.mesh.{name}={size}" for name, size in named.items())


def _text(sizes):
  return " ".join(f"{n}={s}" for n, s in sizes.items() if s > 1) or "of one device"
