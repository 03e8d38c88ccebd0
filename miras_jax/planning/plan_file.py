"""A choice as a file: what `miras scale --search --write=FILE` leaves for `mesh.plan`.

  {"topology": "v5e:4x4", "model": "7b", "conversations": 240, "cached": false,
   "config": {"mesh.data": 8, ..., "optim.accumulation": 5, "data.pack": 3},
   "found": {...}, "reasons": [...]}

Rows and their length follow from `data.pack` and the config (`search.with_pack`).
"""

import dataclasses
import json
import math
import pathlib

from input_pipeline import safe_files
from miras_jax.checkpoint import workdir
from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.parallel.mesh import AXES
from miras_jax.planning import search
from miras_jax.storage import copies

REMAT = "model.overrides.llama.remat"
ACCUMULATION, PACK = "optim.accumulation", "data.pack"
MESH = (*AXES, "keep_gathered")
KINDS = dict.fromkeys((f"mesh.{axis}" for axis in AXES), int)
KINDS |= {"mesh.keep_gathered": str, REMAT: str, ACCUMULATION: int, PACK: int}
MAX_BYTES = 2**20
ANEW = "make one for this config with miras scale --search --write=FILE"
GIB = 2**30


def fields(config) -> dict:
  """The fields of a run that a plan decides: {name: value}."""
  mesh = {f"mesh.{name}": getattr(config.mesh, name) for name in MESH}
  return mesh | {
    REMAT: config.model.build().llama.remat,
    ACCUMULATION: config.optim.accumulation,
    PACK: config.data.pack,
  }


def applied(config, values):
  """The config with these fields, and rows and batch as its packing wants them."""
  changed = search.with_pack(config, values.get(PACK, config.data.pack))
  mesh = {n: values[f"mesh.{n}"] for n in MESH if f"mesh.{n}" in values}
  changed = dataclasses.replace(
    changed,
    mesh=dataclasses.replace(changed.mesh, **mesh),
    optim=dataclasses.replace(
      changed.optim, accumulation=values.get(ACCUMULATION, changed.optim.accumulation)
    ),
  )
  if REMAT in values:
    changed = search.with_override(changed, "llama.remat", values[REMAT])
  return changed


def conversations(config) -> int:
  """Of a step, at most."""
  return config.batch_size * config.data.pack


def write(path, found, entry, reasons, *, cached=False):
  """Writes a `search.Found`; entry: of the formulas, or of the compiled program.
  cached: whether features come from a cache there."""
  about = {
    "source": entry["source"],
    "hbm_gib": round(entry["hbm_bytes"] / GIB, 2),
    "step_time_bound_s": entry["step_time_bound_s"],
    "mfu_ceiling": entry["mfu_ceiling"],
    "batch_size": found.config.batch_size,
  }
  plan = {
    "topology": entry["topology"],
    "model": found.config.model.variant,
    "conversations": conversations(found.config),
    "cached": cached,
    "config": fields(found.config),
    "found": about,
    "reasons": reasons,
  }
  workdir.write_atomically(pathlib.Path(path), json.dumps(plan, indent=2) + "\n")


def read(path, config, place, count, *, cached=False):
  """The config with the plan of a file, which is for the `count` devices of `place`.

  cached: whether features come from a cache here.

  Raises UserError for a file that is none, or one for other devices or another run.
  """
  plan = _parsed(path)
  values = plan["config"]
  for name, value in values.items():
    if name not in KINDS:
      raise UserError(
        f"mesh.plan={path}: unknown field {name!r}; a plan has {', '.join(KINDS)}"
      )
    if type(value) is not KINDS[name]:
      raise UserError(
        f"mesh.plan={path}: {name}={value!r}: want a value of type"
        f" {KINDS[name].__name__}"
      )
  if plan["topology"] != place:
    raise UserError(
      f"mesh.plan={path} is for {plan['topology']}, the devices here are {place}; make"
      " one for them with miras scale --search --write, or take --config.mesh.plan=auto"
    )
  if plan["model"] != config.model.variant:
    raise UserError(
      f"mesh.plan={path} is for {plan['model']}, model.variant={config.model.variant};"
      f" {ANEW}"
    )
  if plan.get("cached") and not cached:
    raise UserError(
      f"mesh.plan={path} is for features of a cache, beside which no encoder is held:"
      f" name one with --config.data.cache=DIR, or {ANEW}"
    )
  _check_conversations(path, config, plan["conversations"])
  pack = values.get(PACK, config.data.pack)
  if not 1 <= pack <= config.data.pack or conversations(config) % pack:
    raise UserError(
      f"mesh.plan={path}: data.pack={pack}: the config has data.pack="
      f"{config.data.pack} and {conversations(config)} conversations a step; {ANEW}"
    )
  try:
    changed = applied(config, values)
    sizes = mesh_lib.resolve(changed.mesh, count)
  except UserError as error:
    raise UserError(f"mesh.plan={path}: {error}; {ANEW}") from error
  shards = math.prod(sizes[axis] for axis in mesh_lib.BATCH_AXES)
  if changed.batch_size % (shards * changed.optim.accumulation):
    raise UserError(
      f"mesh.plan={path}: {changed.batch_size} rows do not divide into"
      f" {ACCUMULATION}={changed.optim.accumulation} on {shards} batch shard(s); {ANEW}"
    )
  return changed


def _check_conversations(path, config, wanted):
  """UserError unless a step has as many as the plan was made for."""
  if wanted == conversations(config):
    return
  rows, rest = divmod(wanted, config.data.pack)
  remedy = f"set --config.batch_size={rows}" if rows > 0 and not rest else ANEW
  raise UserError(
    f"mesh.plan={path} is for {wanted} conversations a step, the config has"
    f" batch_size={config.batch_size} x data.pack={config.data.pack}; {remedy}"
  )


def _parsed(path):
  """The JSON object of a file, whose parts have their kinds."""
  local = copies.fetch(path)
  try:
    plan = json.loads(safe_files.read_bytes(local, MAX_BYTES).decode("utf-8"))
    kinds = {"topology": str, "model": str, "conversations": int, "config": dict}
    for name, kind in kinds.items():
      if not isinstance(plan, dict) or not isinstance(plan.get(name), kind):
        raise ValueError(f"no {name!r} in it")
  except FileNotFoundError:
    raise UserError(
      f"mesh.plan={path}: no such file; want auto, or a file that miras scale --search"
      " --write=FILE wrote"
    ) from None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(
      f"mesh.plan={path}: not a plan of miras scale --search --write: {error}"
    ) from None
  return plan
