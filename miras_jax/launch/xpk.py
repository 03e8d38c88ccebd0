"""xpk: one `xpk workload create`.

xpk writes the JobSet itself, and starts it again after the statuses 42 and 127 to 255.
It copies the command into a shell line of that manifest: a line break is refused.
"""

import shlex

from miras_jax.errors import UserError
from miras_jax.launch import quote


def write(job) -> str:
  """The command."""
  device = _device(job.place)
  for name in ("image", "cluster"):
    if not (job.image if name == "image" else job.options.get(name)):
      raise UserError(f"miras launch xpk: --{name}=... is missing")
  for word in job.train:
    if "\n" in word:
      raise UserError(
        f"miras launch xpk: {word!r} has a line break, which xpk cannot pass on; leave"
        " it out, or take miras launch gke"
      )
  # `exec`: the signal that xpk passes on reaches the run.
  command = f"exec {shlex.join(job.train)}"
  options = {
    "cluster": job.options["cluster"],
    "workload": job.name,
    **device,
    "docker-image": job.image,
    "max-restarts": job.restarts,
    "restart-on-exit-codes": job.stopped,
    "termination-grace-period-seconds": job.grace_s,
  }
  for name in ("project", "zone", "priority"):
    if value := job.options.get(name):
      options[name] = value
  words = [f"--{name}={value}" for name, value in options.items()]
  words += [f"--storage={volume.name}" for volume in job.volumes]
  words.append(f"--command={quote.kubernetes([command])[0]}")
  line = quote.shell(["xpk", "workload", "create", *words])
  return f"#!/usr/bin/env bash\n{job.header()}{line}\n"


def _device(place):
  names = place.names
  lacks = place.layout == "1x1" or (place.generation, place.layout) == ("v5e", "2x2")
  if place.is_tpu and not lacks:
    cores = place.chips_per_slice * names.cores
    return {"tpu-type": f"{names.xpk}-{cores}", "num-slices": place.slices}
  if names.xpk and not place.is_tpu and place.chips_per_vm == 8:
    return {"device-type": names.xpk, "num-nodes": place.slices}
  raise UserError(f"xpk has no device type for {place.name}; take miras launch gke")
