"""`miras scale --check`: the 7B stage-2 step still fits its chips, and moves no more.

Compiles it with ten micro-batches, on cached features and with the compiler's least
effort (less time, more HBM traffic than the trainer's: a change is what is compared),
for 16 v6e chips that each hold all weights, and compares peak memory, HBM traffic and
collective bytes with the committed baseline.json: more than 3 % above is a failure, and
the difference is shown.
`--check --update` writes the numbers of today, for a commit that explains them.
"""

import importlib.resources
import json
import pathlib
from importlib import metadata

from miras_jax.config import file as config_file
from miras_jax.config.run import RunConfig
from miras_jax.errors import UserError

CONFIG, TOPOLOGY, PROGRAM = "miras_7b_stage2", "v6e:4x4", "train"
# Of several micro-batches, gradients are to cross the network once.
ACCUMULATION, MESH = 10, {"data": 16, "fsdp": 1}
TOLERANCE = 0.03
SMALL = 2**20  # bytes below which a collective is noise


def main(*, update=False):
  """Returns the exit status."""
  found = numbers(compile_it())
  folder = importlib.resources.files("miras_jax.scale")
  path = pathlib.Path(str(folder)) / "baseline.json"
  if update:
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"{path}: written")
    return 0
  if not path.is_file():
    raise UserError(f"{path} is missing: miras scale --check --update writes it")
  baseline = json.loads(path.read_text(encoding="utf-8"))
  problems = compare(baseline, found)
  print("\n".join(problems or [summary(found)]))
  return 1 if problems else 0


def compile_it():
  from miras_jax.scale.compile import compile_one

  made = config_file.load(CONFIG)
  made.optim.accumulation = ACCUMULATION
  made.mesh.update(MESH)
  config = RunConfig.from_config_dict(made)
  return compile_one(config, TOPOLOGY, PROGRAM, cached=True, per_chip=1, effort="O1")


def numbers(entry):
  """What is compared, and with what it was made."""
  sent = {}
  for c in entry["collectives"]:
    key = f"{c['kind']} {c['axis']}"
    sent[key] = sent.get(key, 0) + c["bytes"]
  return {
    "config": CONFIG,
    "topology": TOPOLOGY,
    "program": PROGRAM,
    "cached": True,
    "accumulation": ACCUMULATION,
    "mesh": MESH,
    "batch_size": entry["batch_size"],
    "fits": entry["fits"],
    "hbm_bytes": entry["hbm_bytes"],
    "hbm_traffic": entry["hbm_traffic"],
    "collectives": sent,
    "compile_s": round(entry["compile_s"], 1),
    "versions": {name: _version(name) for name in ("jax", "libtpu")},
  }


def compare(baseline, found):
  """Lines that say what got worse than TOLERANCE and the whole difference; or []."""
  rows = [
    (name, baseline[key], found[key] or 0)
    for name, key in (("peak HBM", "hbm_bytes"), ("HBM traffic", "hbm_traffic"))
  ]
  kinds = sorted({*baseline["collectives"], *found["collectives"]})
  rows += [
    (k, baseline["collectives"].get(k, 0), found["collectives"].get(k, 0))
    for k in kinds
  ]
  worse = [
    name for name, old, new in rows
    if new > old * (1 + TOLERANCE) and new - old > SMALL
  ]  # fmt: skip
  if found["fits"] and not worse:
    return []
  head = f"worse: {', '.join(worse)}" if found["fits"] else "it does not fit any more"
  lines = [f"{CONFIG} on {TOPOLOGY}: {head}; miras scale --check --update accepts it"]
  for name, old, new in rows:
    change = f"{new / old - 1:+.1%}" if old else "new"
    old, new = old / 2**30, new / 2**30
    lines.append(f"  {name:<28}{old:>10.3f} ->{new:>10.3f} GiB  {change}")
  if baseline["versions"] != found["versions"]:
    lines.append(f"  versions {baseline['versions']} -> {found['versions']}")
  return lines


def summary(found):
  sent = sum(found["collectives"].values())
  hbm, traffic, sent = (
    f"{size / 2**30:.2f} GiB"
    for size in (found["hbm_bytes"], found["hbm_traffic"], sent)
  )
  return (
    f"{CONFIG} on {TOPOLOGY}: peak HBM {hbm}, HBM traffic {traffic}, collectives"
    f" {sent}, compiled in {found['compile_s']:.0f} s: as the baseline"
  )


def _version(name):
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None
