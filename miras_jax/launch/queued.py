"""Cloud TPU without Kubernetes: a queued resource whose VMs start the run themselves.

Every VM of every slice runs the start-up script at each boot, so a slice that comes
back from maintenance goes on. The hosts of a slice, and the slices, find each other
through the TPU's own metadata.
"""

import re

from miras_jax.errors import UserError
from miras_jax.launch import place as places
from miras_jax.launch import quote

PAUSE_S = 30
LEAST_SIGNAL = 125  # docker: the image cannot be had (125), or a signal (128 and more)


def write(job) -> str:
  """The script that asks for the queued resource."""
  places.require(job.place, "queued", tpu=True)
  for name in ("image", "zone"):
    if not (job.image if name == "image" else job.options.get(name)):
      raise UserError(f"miras launch queued: --{name}=... is missing")
  word, startup = quote.heredoc(_startup(job))
  return (
    "#!/usr/bin/env bash\n"
    + job.header("Asks for the slices; each VM then runs the script in the middle.")
    + "set -euo pipefail\n"
    'startup="$(mktemp)"\n'
    "trap 'rm -f \"$startup\"' EXIT\n"
    f"cat >\"$startup\" <<'{word}'\n{startup}{word}\n"
    + quote.shell(_request(job))
    + ' \\\n  --metadata-from-file="startup-script=$startup"\n'
  )


def _request(job):
  place, options = job.place, job.options
  runtime = options.get("runtime") or place.names.runtime
  if not place.names.cloud or not runtime:
    raise UserError(
      f"{place.name} is not known without Kubernetes; take miras launch gke"
    )
  words = ["gcloud", "compute", "tpus", "queued-resources", "create", job.name]
  words += [f"--{n}={options[n]}" for n in ("project", "zone") if options.get(n)]
  words += [f"--accelerator-type={place.cloud_type}", f"--runtime-version={runtime}"]
  if place.slices > 1:
    words += [f"--node-count={place.slices}", f"--node-prefix={job.name}"]
  else:
    words.append(f"--node-id={job.name}")
  words += [f"--{n}" for n in ("spot", "reserved") if options.get(n)]
  if account := options.get("service_account"):
    words.append(f"--service-account={account}")
  return words


def _startup(job):
  registry = re.match(r"[\w.-]+\.pkg\.dev(?=/)|([\w-]+\.)?gcr\.io(?=/)", job.image)
  login = f"gcloud auth configure-docker {registry[0]} --quiet\n" if registry else ""
  run = ["docker", "run", "--rm", "--privileged", "--network=host"]
  run += [f"--stop-timeout={job.grace_s}", "--entrypoint=miras", job.image]
  command = quote.shell([*run, *job.train[1:]], indent="    ")
  return (
    "#!/usr/bin/env bash\n"
    "# A run that saved and wants to go on, or that a signal ended, is started again.\n"
    "set -uo pipefail\n"
    "export HOME=/root\n"
    f"{login}"
    f"for attempt in $(seq 0 {job.restarts}); do\n"
    "  status=0\n"
    f"  {command} || status=$?\n"
    '  echo "miras: attempt $attempt ended with status $status"\n'
    f'  if [ "$status" -ne {job.stopped} ] && [ "$status" -lt {LEAST_SIGNAL} ]; then\n'
    '    exit "$status"\n'
    "  fi\n"
    f"  sleep {PAUSE_S}\n"
    "done\n"
    'exit "$status"\n'
  )
