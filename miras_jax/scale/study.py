"""`--study=...`: one thing varied, everything else as the config says.

chips       the topology's generation from its size up to 1,024 chips and more: weak
            scaling (rows a chip fixed) and strong scaling (one row a chip at the
            largest, the same rows in more micro-batches at the others)
size        1b, 7b, 13b, 34b, 70b on the same chips
resolution  of both encoders
encoder     what image tokens are made of: dual, shared, sam_only
length      tokens of a row
masks       [SEG]s of a row
"""

import dataclasses
import functools
import math

import jax

from miras_jax.config.model import ENCODERS
from miras_jax.errors import UserError
from miras_jax.models import trees
from miras_jax.models.miras import init_params
from miras_jax.planning import topology
from miras_jax.planning.search import with_override

SIZES = ("1b", "7b", "13b", "34b", "70b")
LENGTHS = (512, 1024, 2048, 4096, 8192)
MASKS = (1, 4, 16, 32)
RESOLUTIONS = ((512, 384), (1024, 768), (1536, 1152))  # SAM canvas, ConvNeXt


def run(name, config, names, one):
  """Entries with `label`, `series` and `efficiency` (see _series)."""
  if name not in STUDIES:
    raise UserError(f"--study={name}: there are {', '.join(STUDIES)}, ladder")
  out = []
  for slice_name in names:
    out += STUDIES[name](config, slice_name, one)
  return out


def chips(config, start, one):
  generation, shape, _ = topology.parse(start)
  shapes = topology.KINDS[generation][1]
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
  meaning = "of the first's rows a chip"
  return [
    entry
    for series, entries in (("weak", weak), ("strong", strong))
    for entry in _series(series, entries, _over_first(entries), meaning)
  ]


def size(config, name, one):
  out = []
  for variant in SIZES:
    overrides = {
      k: v for k, v in config.model.overrides.items() if k != "llama.vocab_size"
    }
    chosen = dataclasses.replace(config.model, variant=variant, overrides=overrides)
    entry = one(dataclasses.replace(config, model=chosen), name)
    out.append(entry | {"label": f"{variant} {name}"})
  return _ceilings(name, out)


def resolution(config, name, one):
  out = []
  for sam, aux in RESOLUTIONS:
    changed = with_override(config, "sam_encoder.image_size", sam)
    changed = with_override(changed, "convnext.image_size", aux)
    out.append(one(changed, name) | {"label": f"{sam}/{aux} px {name}"})
  return _ceilings(name, out)


def encoder(config, name, one):
  out = []
  for chosen in ENCODERS:
    model = dataclasses.replace(config.model, encoder=chosen)
    entry = one(dataclasses.replace(config, model=model), name)
    note = f"{_parameters(model) / 1e9:.3f} billion parameters"
    entry["notes"] = [note, *entry["notes"]]
    out.append(entry | {"label": f"{chosen} {name}"})
  return _ceilings(name, out)


def _parameters(model):
  make = functools.partial(init_params, model.build())
  return trees.count(jax.eval_shape(make, jax.random.key(0)))


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
  return _ceilings(name, out)


def _ceilings(name, entries):
  """Different work: how much of the chips' peak each can use at most."""
  return _series(name, entries, [e.get("mfu_ceiling") for e in entries], "of the peak")


def _over_first(entries):
  rates = [_per_chip(e) for e in entries]
  base = next(filter(None, rates), None)
  return [rate / base if rate and base else None for rate in rates]


def _series(name, entries, efficiencies, meaning):
  """Adds `series`, `efficiency` and why it is what it is; and, where a network becomes
  the slowest unit, `dominates` with the collective that sends the most."""
  dominated = False
  for entry, efficiency in zip(entries, efficiencies, strict=True):
    entry |= {"series": name, "efficiency": efficiency}
    if efficiency is None:
      continue
    times = entry["times_s"]
    network = times["ici"] + times["dcn"]
    entry["notes"] = [
      *entry["notes"],
      f"efficiency {efficiency:.2f} {meaning}, bound by {entry['bound']};"
      f" networks take {network / times['compute']:.2f} of the compute time",
    ]
    if entry["bound"] in ("ici", "dcn") and not dominated:
      dominated = True
      entry["dominates"] = f"{entry['bound']}: {_heaviest(entry)}"
      said = f"the first point where {entry['dominates']} dominates"
      entry["traps"] = [*entry["traps"], said]
  return entries


def _heaviest(entry):
  """The collective that sends the most over the network that binds."""
  found = [c for c in entry["collectives"] if c["network"] == entry["bound"]]
  most = max(found, key=lambda c: c["bytes"])
  return f"{most['kind']} over {most['axis']}"


def _per_chip(entry):
  rate = entry.get("examples_per_s")
  return rate / entry["chips"] if rate and math.isfinite(rate) else None


STUDIES = {
  "chips": chips, "size": size, "resolution": resolution, "encoder": encoder,
  "length": length, "masks": masks,
}  # fmt: skip
