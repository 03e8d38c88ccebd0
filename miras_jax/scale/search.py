"""`--search`: meshes, remat policies and accumulations, ordered by the memory model.

What the model says cannot fit is never compiled; the fastest of the rest are.
"""

import dataclasses

from miras_jax.errors import UserError
from miras_jax.scale import model, topology

REMATS = ("full", "dots")
SHOWN = 6


def run(config, name, *, compile_best=1, cached=False):
  """Entries of the best configurations on one topology, the compiled ones first."""
  found = candidates(config, name, cached=cached)
  feasible = [e for e, _, _ in found if e["fits"]]
  if not feasible:
    least = min((e for e, _, _ in found), key=lambda e: e["hbm_bytes"])
    raise UserError(
      f"nothing fits {name}: the leanest, {least['label']}, takes about"
      f" {least['hbm_bytes'] / 2**30:.1f} of {least['hbm_capacity'] / 2**30:.1f} GiB;"
      " take more chips or a smaller row"
    )
  best = [x for x in found if x[0]["fits"]][:SHOWN]
  out = []
  for entry, changed, mesh in best[:compile_best]:
    from miras_jax.scale.command import compile_one

    made = compile_one(changed, name, mesh=mesh, cached=cached)
    out.append(made | {"label": entry["label"]})
  return out + [entry for entry, _, _ in best]


def candidates(config, name, *, cached=False):
  """[(entry, config, mesh)] of every choice, the fastest first.

  Ordered by the time without any overlap: the bound alone would call all those equal
  that compute the same.
  """
  devices, slices = num_devices(name)
  out = []
  for mesh in model.meshes(config, devices, slices):
    for changed, text in variations(config):
      entry = model.estimate(changed, name, mesh=mesh, cached=cached)
      sizes = " ".join(f"{k}{v}" for k, v in mesh.sizes.items() if v > 1)
      out.append((entry | {"label": f"{name} {sizes} {text}"}, changed, mesh))
  return sorted(
    out, key=lambda x: x[0]["step_time_no_overlap_s"] / x[0]["batch_size"]
  )


def variations(config):
  """(config, label): remat policies times the config's accumulation and none."""
  for remat in REMATS:
    for accumulation in sorted({1, config.optim.accumulation}):
      changed = with_override(config, "llama.remat", remat)
      optim = dataclasses.replace(changed.optim, accumulation=accumulation)
      yield (
        dataclasses.replace(changed, optim=optim),
        f"{remat} x{accumulation}",
      )


def with_override(config, path, value):
  """The config with one dotted field of its model replaced."""
  overrides = config.model.overrides | {path: value}
  chosen = dataclasses.replace(config.model, overrides=overrides)
  return dataclasses.replace(config, model=chosen)


def num_devices(name):
  from miras_jax import chips

  generation, shape, slices = topology.parse(name)
  chip = next(c for c in chips.CHIPS if c.name == generation)
  return topology.num_chips(shape, slices) * chip.devices, slices
