"""`--study=...`: one thing varied, everything else as the config says.

chips       the topology's generation from its size up to 1,024 chips and more: weak
            scaling (rows a chip fixed) and strong scaling (one row a chip at the
            largest, the same rows in more micro-batches at the others)
size        1b, 7b, 13b, 34b, 70b on the same chips
resolution  of both encoders
length      tokens of a row
masks       [SEG]s of a row
"""

import dataclasses
import math

from miras_jax.errors import UserError
from miras_jax.scale import topology
from miras_jax.scale.search import with_override

SIZES = ("1b", "7b", "13b", "34b", "70b")
LENGTHS = (512, 1024, 2048, 4096, 8192)
MASKS = (1, 4, 16, 32)
RESOLUTIONS = ((512, 384), (1024, 768), (1536, 1152))  # SAM canvas, ConvNeXt


def run(name, config, names, one):
  """Entries with `label`, and `efficiency` relative to the first of their series."""
  if name not in STUDIES:
    raise UserError(f"--study={name}: there are {', '.join(STUDIES)}")
  out = []
  for slice_name in names:
    out += STUDIES[name](config, slice_name, one)
  return out


def chips(config, start, one):
  generation, shape, _ = topology.parse(start)
  shapes = topology.SHAPES[generation][1]
  first = shapes.index("x".join(map(str, shape)))
  names = [f"{generation}:{s}" for s in shapes[first:]]
  largest = names[-1]
  if topology.num_chips(topology.parse(largest)[1], 1) < 1024:
    names.append(f"{largest}x4")
  weak = [one(config, n) | {"label": f"weak {n}"} for n in names]
  rows = max(e["devices"] for e in weak)
  strong = []
  for n, entry in zip(names, weak, strict=True):
    optim = dataclasses.replace(
      config.optim, accumulation=max(1, rows // entry["devices"])
    )
    fixed = dataclasses.replace(config, batch_size=rows, optim=optim)
    strong.append(one(fixed, n) | {"label": f"strong {n}"})
  return _relative(weak) + _relative(strong)


def size(config, name, one):
  out = []
  for variant in SIZES:
    overrides = {
      k: v for k, v in config.model.overrides.items() if k != "llama.vocab_size"
    }
    chosen = dataclasses.replace(config.model, variant=variant, overrides=overrides)
    entry = one(dataclasses.replace(config, model=chosen), name)
    out.append(entry | {"label": f"{variant} {name}"})
  return out


def resolution(config, name, one):
  out = []
  for sam, aux in RESOLUTIONS:
    changed = with_override(config, "sam_encoder.image_size", sam)
    changed = with_override(changed, "convnext.image_size", aux)
    out.append(one(changed, name) | {"label": f"{sam}/{aux} px {name}"})
  return _relative(out)


def length(config, name, one):
  return _of_data(config, name, one, "max_len", LENGTHS, "tokens")


def masks(config, name, one):
  return _of_data(config, name, one, "max_masks", MASKS, "masks")


def _of_data(config, name, one, field, values, unit):
  out = []
  for value in values:
    data = dataclasses.replace(config.data, **{field: value})
    entry = one(dataclasses.replace(config, data=data), name)
    out.append(entry | {"label": f"{value} {unit} {name}"})
  return _relative(out)


def _relative(entries):
  """Adds `efficiency`, rows a chip and second over the first's, and its reason."""
  base = next((_per_chip(e) for e in entries if _per_chip(e)), None)
  for entry in entries:
    rate = _per_chip(entry)
    entry["efficiency"] = rate / base if rate and base else None
    if entry["efficiency"] is None:
      continue
    times = entry["times_s"]
    network = times["ici"] + times["dcn"]
    entry["notes"] = [
      *entry["notes"],
      f"efficiency {entry['efficiency']:.2f} of the first, bound by {entry['bound']};"
      f" networks take {network / times['compute']:.2f} of the compute time",
    ]
  crossing = next(
    (e for e in entries if e.get("bound") in ("ici", "dcn")), None
  )
  if crossing:
    crossing["traps"] = [
      *crossing["traps"], f"from here on, {crossing['bound']} dominates"
    ]  # fmt: skip
  return entries


def _per_chip(entry):
  rate = entry.get("examples_per_s")
  return rate / entry["chips"] if rate and math.isfinite(rate) else None


STUDIES = {
  "chips": chips, "size": size, "resolution": resolution, "length": length,
  "masks": masks,
}  # fmt: skip
