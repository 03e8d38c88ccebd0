"""Compiles one program of a config for a topology that need not be there."""

import contextlib
import dataclasses

import jax

from miras_jax import logs
from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning import topology
from miras_jax.scale import answers, programs, weigh

EFFORTS = ("", "O1", "O2", "O3")


FITS = {"cache": programs.fit_cache} | dict.fromkeys(
  answers.PROGRAMS, programs.fit_answers
)


def compile_one(
  config, name, program="train", *, per_chip=0, mesh=None, cached=False, effort="",
  weights="trained",
):  # fmt: skip
  """The entry of one program of `config` on the topology `name`, compiled.

  effort: XLA's optimisation level, one of EFFORTS. weights: see `programs.build`.
  """
  if program not in programs.PROGRAMS:
    raise UserError(f"--program={program}: there are {', '.join(programs.PROGRAMS)}")
  found = topology.describe(name)
  config = with_mesh(config, mesh)
  fit = FITS.get(program, programs.fit)
  config, notes = fit(
    config, len(found.devices), num_slices=found.num_slices, per_chip=per_chip
  )
  try:
    grid = mesh_lib.make_mesh(config.mesh, found.devices)
  except (NotImplementedError, ValueError) as error:
    raise UserError(
      f"mesh {config.mesh.sizes} cannot be laid over {name}:"
      f" {str(error).splitlines()[0]}; give one axis all of a torus dimension"
    ) from error
  logs.log.info("compiling %s for %s, some minutes at full size", program, name)
  with jax.set_mesh(grid), compiler(effort):
    build = programs.build(program, config, grid, cached=cached, weights=weights)
    return weigh.weigh(build._replace(notes=notes), found) | {"weights": weights}


def with_mesh(config, mesh):
  return dataclasses.replace(config, mesh=mesh) if mesh else config


@contextlib.contextmanager
def compiler(effort):
  """Compiles at a level of EFFORTS, without the cache: that is for what runs here."""
  settings = {"jax_enable_compilation_cache": False}
  if effort:
    settings["jax_optimization_level"] = effort
  before = {name: getattr(jax.config, name) for name in settings}
  for name, value in settings.items():
    jax.config.update(name, value)
  try:
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
