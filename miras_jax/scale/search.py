"""`--search`: meshes, remat policies, accumulation and packing, by the memory model.

What the model says cannot fit is never compiled; the fastest of the rest are. Fast is
conversations a second, for rows hold different numbers of them; every choice has about
as many conversations a step as the config, so that it is the same training.
"""

import dataclasses

from miras_jax.config.model import LANES
from miras_jax.errors import UserError
from miras_jax.scale import model, programs, topology

REMATS = ("full", "dots")
SHOWN = 6


def run(config, name, *, compile_best=1, cached=False, effort=""):
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
    from miras_jax.scale.compile import compile_one

    made = compile_one(changed, name, mesh=mesh, cached=cached, effort=effort)
    out.append(made | {"label": entry["label"]})
  return out + [entry for entry, _, _ in best]


def candidates(config, name, *, cached=False):
  """[(entry, config, mesh)] of every choice, the fastest first.

  Ordered by the time without any overlap, a conversation: the bound alone would call
  all those equal that compute the same.
  """
  devices, slices = num_devices(name)
  out, choices = [], list(variations(config))
  for mesh in model.meshes(config, devices, slices):
    for changed, text in choices:
      entry = model.estimate(changed, name, mesh=mesh, cached=cached)
      sizes = " ".join(f"{k}{v}" for k, v in mesh.sizes.items() if v > 1)
      out.append((entry | {"label": f"{name} {sizes} {text}"}, changed, mesh))
  return sorted(out, key=lambda found: _seconds(found[0]))


def _seconds(entry):
  """Of a conversation."""
  return entry["step_time_no_overlap_s"] / entry["batch_size"] / entry["pack"]


def variations(config):
  """(config, label): packing x remat policies x the config's accumulation and none."""
  for pack in packs(config.data.pack):
    packed = with_pack(config, pack)
    for remat in REMATS:
      for accumulation in sorted({1, config.optim.accumulation}):
        changed = with_override(packed, "llama.remat", remat)
        optim = dataclasses.replace(changed.optim, accumulation=accumulation)
        yield (
          dataclasses.replace(changed, optim=optim),
          f"{remat} x{accumulation} pack{pack}",
        )


def packs(most):
  """Powers of two up to the config's own packing, and that: the data have no more
  conversations about an image."""
  return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})


def with_pack(config, pack):
  """The config with `pack` conversations in a row and as many in a step as before.

  A row is the image and the conversations: what the config's own row leaves for each,
  or as programs.fit takes where the config says nothing.
  """
  data, most = config.data, config.data.pack
  if pack == most:
    return config
  model = config.model.build()
  image = model.num_image_tokens
  talk = -(-(data.max_len - image) // most) if data.max_len else programs.TALK
  length = image + pack * (data.talk_len - image if data.talk_len else talk)
  if model.llama.attention == "splash":
    length = -(-length // LANES) * LANES
  changed = dataclasses.replace(
    data,
    pack=pack,
    max_len=min(length, data.max_len or length),
    talk_len=data.talk_len or image + talk,
    max_masks=max(1, -(-data.max_masks * pack // most)),
  )
  rows = -(-config.batch_size * most // pack)
  return dataclasses.replace(config, data=changed, batch_size=rows)


def with_override(config, path, value):
  """The config with one dotted field of its model replaced."""
  overrides = config.model.overrides | {path: value}
  chosen = dataclasses.replace(config.model, overrides=overrides)
  return dataclasses.replace(config, model=chosen)


def num_devices(name):
  generation, shape, slices = topology.parse(name)
  devices = topology.chip_of(generation).devices
  return topology.num_chips(shape, slices) * devices, slices
