"""`--save-executable`: the programs of `miras train`, compiled before it starts.

The run's own data are opened, for they decide the vocabulary, the length of rows and
whether examples have no masks: another program otherwise, which the trainer refuses.
What is kept for a TPU is loaded on such TPUs only.
"""

import pathlib
import tempfile

import jax

from miras_jax.checkpoint import executables, workdir
from miras_jax.errors import UserError
from miras_jax.models import attention_support
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel import sharding
from miras_jax.planning import choice, topology
from miras_jax.scale.compile import compiler
from miras_jax.training import init_from, plan
from miras_jax.training.task import make_task

LOCAL = "local"


def main(config, name, folder, *, effort=""):
  """Returns the exit status. name: of a topology, or LOCAL."""
  config = init_from.fitted(config)
  config, devices, lines = _laid(config, name)
  print("\n".join(lines), end="\n" if lines else "")
  grid = mesh_lib.make_mesh(config.mesh, devices)
  mesh_lib.check_batch(config.batch_size, grid, accumulation=config.optim.accumulation)
  attention_support.check(
    config.model.build().llama, grid.shape["tensor"], devices[0].platform,
    config.model.dtype,
  )  # fmt: skip
  kept = executables.Kept(folder)
  with tempfile.TemporaryDirectory() as place:
    # As if one process fed all rows: the shapes of the whole batch.
    task = make_task(config, workdir.Workdir(pathlib.Path(place) / "run"))
    mesh_lib.check_length(task.config.data.max_len, grid)
    steps = _compile(task, grid, kept, effort)
  for program in filter(None, steps):
    print(f"{folder}: {program.name} for {name}, {program.seconds:.1f} s")
  print(f"miras train --executable={folder} loads them there")
  return 0


def _laid(config, name):
  """(config with its plan, devices, lines about the plan)."""
  if name == LOCAL:
    devices = jax.devices()
    config, lines = choice.decide(config, devices)
    return config, devices, lines
  names = topology.split_names(name)
  if len(names) > 1:
    raise UserError(f"--save-executable is for one topology, not {', '.join(names)}")
  found = topology.describe(names[0])
  config, lines = choice.for_place(config, topology.hardware(names[0]))
  return config, found.devices, lines


def _compile(task, grid, kept, effort):
  """The Programs of a Task on a mesh, kept."""
  with jax.set_mesh(grid), compiler(effort):
    shapes, parts = plan.make_plan(task, grid)
    batch = _shapes(grid, next(task.batches))
    task.batches.close()
    probe = task.probe and _shapes(grid, task.probe)
    return plan.compile_steps(parts, grid, shapes, batch, probe, kept=kept)


def _shapes(mesh, batch):
  placed = sharding.batch_shardings(mesh, batch)
  return {
    k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=placed[k])
    for k, v in batch.items()
  }
