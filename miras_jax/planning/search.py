"""Meshes, remat policies, micro-batches and packing, ordered by the memory model.

Fast is conversations a second, for rows hold different numbers of them; every choice
has as many conversations a step as the config, so that it is the same training.
"""

import dataclasses
import math
from typing import Any, NamedTuple

from miras_jax.config.lanes import LANES
from miras_jax.errors import UserError
from miras_jax.parallel import mesh as mesh_lib
from miras_jax.planning import model
from miras_jax.planning.rates import NEAR

REMATS = ("full", "dots")
REASONS = 3  # of a kind that are told
GIB = 2**30


class Found(NamedTuple):
  """One choice: its estimate, and the RunConfig that it makes of the given one."""

  entry: dict
  config: Any

  @property
  def mesh(self):
    return self.config.mesh

  @property
  def seconds(self) -> float:
    """Of a conversation, without any overlap: the bound alone would call all those
    equal that compute the same."""
    entry = self.entry
    return entry["step_time_no_overlap_s"] / entry["batch_size"] / entry["pack"]

  @property
  def fits(self) -> bool:
    """Whether it takes so little of a device's memory that formulas may be trusted."""
    return self.entry["hbm_bytes"] <= NEAR * self.entry["hbm_capacity"]


def candidates(config, place, *, cached=False, exact=False) -> list[Found]:
  """Every choice on a `topology.Hardware`, the fastest first.

  cached: features come from a cache. exact: only choices that the config's batch
  divides into; else it is rounded up. A row whose length the config gives is shortened
  where fewer conversations share it, but not with `exact`: it would cut some.
  """
  fixed = exact and config.data.max_len
  sizes = [config.data.pack] if fixed else packs(config.data.pack)
  talks = config.batch_size * config.data.pack
  sizes = [pack for pack in sizes if not exact or talks % pack == 0]
  found = []
  for packed in (with_pack(config, pack) for pack in sizes):
    for mesh in model.meshes(config, place.num_devices, place.num_slices):
      for changed in _on_mesh(packed, mesh, exact):
        entry = model.estimate(changed, place, cached=cached)
        label = f"{place.name} {text_of(changed)}"
        found.append(Found(entry | {"label": label}, changed))
  return sorted(found, key=lambda one: one.seconds)


def as_given(config, place, *, cached=False) -> Found | None:
  """The config itself; None where it would not run there."""
  try:
    sizes = mesh_lib.resolve(config.mesh, place.num_devices)
  except UserError:
    return None
  mesh = dataclasses.replace(config.mesh, **sizes)
  config = dataclasses.replace(config, mesh=mesh)
  entry = model.estimate(config, place, cached=cached)
  is_whole = entry["batch_size"] == config.batch_size
  return Found(entry, config) if is_whole else None


def _on_mesh(config, mesh, exact):
  """The config on this mesh with each micro-batch, remat policy and way to gather."""
  shards = math.prod(mesh.sizes[axis] for axis in mesh_lib.BATCH_AXES)
  rows = -(-config.batch_size // shards)  # of each shard
  if exact and rows * shards != config.batch_size:
    return
  config = dataclasses.replace(config, batch_size=rows * shards)
  for accumulation in divisors(rows):
    optim = dataclasses.replace(config.optim, accumulation=accumulation)
    changed = dataclasses.replace(config, optim=optim)
    keeps = (config.mesh.keep_gathered,)
    if keeps == ("auto",) and mesh.fsdp > 1 and accumulation > 1:
      keeps = ("on", "off")
    for keep in keeps:
      own = config.mesh
      laid = dataclasses.replace(own, **mesh.sizes, keep_gathered=keep)
      for remat in _remats(config):
        one = with_override(changed, "llama.remat", remat)
        yield dataclasses.replace(one, mesh=laid)


def divisors(number) -> list[int]:
  """Of a positive whole number, ascending."""
  small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
  return sorted({*small, *(number // n for n in small)})


def _remats(config):
  return sorted({*REMATS, config.model.build().llama.remat})


def text_of(config) -> str:
  """ "data=8 tensor=2, remat=dots, 5 micro-batches, pack=3" """
  mesh = config.mesh
  axes = " ".join(f"{k}={v}" for k, v in mesh.sizes.items() if v != 1) or "data=1"
  remat = f"remat={config.model.build().llama.remat}"
  kept = {"on": ", gathered once a step", "off": ", gathered at each use"}
  batches = config.optim.accumulation
  return (
    f"{axes}, {remat}, {batches} micro-batch{'es' * (batches > 1)},"
    f" pack={config.data.pack}{kept.get(mesh.keep_gathered, '')}"
  )


def fitting(found, place) -> list[Found]:
  """Those that fit with room to spare. UserError where none does: the leanest."""
  out = [one for one in found if one.fits]
  if out:
    return out
  least = min((one.entry for one in found), key=lambda entry: entry["hbm_bytes"])
  raise UserError(
    f"nothing fits {place.name}: the leanest, {least['label']}, takes about"
    f" {least['hbm_bytes'] / GIB:.1f} of {least['hbm_capacity'] / GIB:.1f} GiB,"
    f" {NEAR:.0%} of which are planned with; take more chips or a smaller row"
  )


def reasons(found, chosen, given=None) -> list[str]:
  """Why not another mesh: some that would be faster and do not fit, then the next
  fastest that do, each at its best; and the config as it was given, where that would
  run."""
  seen, large, slow = {(_sizes(chosen), fits) for fits in (True, False)}, [], []
  for one in found:  # the fastest first
    mesh = _sizes(one), one.fits
    if mesh in seen or (one.seconds > chosen.seconds and not one.fits):
      continue
    seen.add(mesh)
    (slow if one.fits else large).append(_why_not(one, chosen))
  own = [f"{_why_not(given, chosen)}, as the config says"] if given else []
  return large[:REASONS] + slow[:REASONS] + own


def _sizes(one):
  return tuple(one.mesh.sizes.items())


def _why_not(one, chosen):
  return f"not {text_of(one.config)}: {_cost(one, chosen)}"


def _cost(one, chosen):
  if not one.fits:
    used, room = one.entry["hbm_bytes"] / GIB, one.entry["hbm_capacity"] / GIB
    return f"about {used:.1f} GiB, more than {NEAR:.0%} of {room:.1f}"
  slower = one.seconds / chosen.seconds - 1
  return f"{slower:.0%} slower" if slower >= 0.005 else "as fast"


def packs(most):
  """Powers of two up to the config's own packing, and that: the data have no more
  conversations about an image."""
  return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})


def with_pack(config, pack):
  """The config with `pack` conversations in a row and as many in a step as before.

  A row is the image and the conversations: what the config's own row leaves for each.
  Where it leaves that to the data, so does the result.
  """
  data, most = config.data, config.data.pack
  if pack == most:
    return config
  rows = -(-config.batch_size * most // pack)
  changed = dataclasses.replace(data, pack=pack)
  if data.max_len:
    changed = _shortened(changed, most, config.model.build())
  return dataclasses.replace(config, data=changed, batch_size=rows)


def _shortened(data, most, cfg):
  """Room for `data.pack` conversations of the `most` that a row of `data` was for."""
  image = cfg.num_image_tokens
  talk = -(-(data.max_len - image) // most)
  length = image + data.pack * (data.talk_len - image if data.talk_len else talk)
  if cfg.llama.attention == "splash":
    length = -(-length // LANES) * LANES
  return dataclasses.replace(
    data,
    max_len=min(length, data.max_len),
    talk_len=data.talk_len or image + talk,
    max_masks=max(1, -(-data.max_masks * data.pack // most)),
  )


def with_override(config, path, value):
  """The config with one dotted field of its model replaced."""
  overrides = config.model.overrides | {path: value}
  chosen = dataclasses.replace(config.model, overrides=overrides)
  return dataclasses.replace(config, model=chosen)
