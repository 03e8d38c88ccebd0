"""SkyPilot: a task for `sky jobs launch`, which starts it again on other machines.

It copies the folder it is called from, a clone of this repository, and installs it
there. A run that saved and stopped is always started again; one that failed,
`--restarts` times.
"""

from miras_jax.errors import UserError
from miras_jax.launch import quote
from miras_jax.launch.job import PORT

VENV = '"$HOME/miras-venv"'


def write(job) -> str:
  """The task."""
  place, options = job.place, job.options
  if not place.names.sky or (place.is_tpu and place.slices > 1):
    raise UserError(
      f"SkyPilot runs GPU nodes, or one TPU slice that Cloud TPU names; for"
      f" {place.name} take miras launch gke"
    )
  resources = _resources(place)
  if infra := options.get("infra"):
    resources["infra"] = infra
  if options.get("spot"):
    resources["use_spot"] = True
  resources["job_recovery"] = {
    "max_restarts_on_errors": job.restarts,
    "recover_on_exit_codes": [job.stopped],
  }
  task = {"name": job.name, "workdir": ".", "resources": resources}
  task["num_nodes"] = 1 if place.is_tpu else place.slices
  if job.volumes:
    task["volumes"] = {volume.path: volume.name for volume in job.volumes}
  task |= {"setup": _setup(place), "run": _run(job)}
  line = "sky jobs launch FILE      (from the root of a clone)"
  return job.header(line) + quote.documents(task)


def _resources(place):
  if not place.is_tpu:
    return {"accelerators": f"{place.names.sky}:{place.chips_per_vm}"}
  count = place.chips_per_slice * place.names.cores
  return {
    "accelerators": f"{place.names.sky}-{count}",
    "accelerator_args": {"runtime_version": place.names.runtime},
  }


def _setup(place):
  """A Python that is new enough, whatever the machine's own is."""
  return (
    "python3 -m pip install --quiet uv\n"
    f"python3 -m uv venv --allow-existing --python=3.12 {VENV}\n"
    f"VIRTUAL_ENV={VENV} python3 -m uv pip install '.[{place.platform},gcs]'\n"
  )


def _run(job):
  lines = ""
  if not job.place.is_tpu and job.place.slices > 1:
    lines = (
      'first="$(head -n1 <<<"$SKYPILOT_NODE_IPS")"\n'
      f'export JAX_COORDINATOR_ADDRESS="$first:{PORT}"\n'
      'export JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES"\n'
      'export JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"\n'
    )
  return f"{lines}exec {VENV}/bin/{quote.shell(job.train)}\n"
