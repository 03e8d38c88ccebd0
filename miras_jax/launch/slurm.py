"""Slurm: a batch script for GPU nodes, one process a GPU.

The job's last minutes begin with SIGTERM; the run saves and ends with 0, which Slurm
takes for done. `--restarts=N` makes it an array of N + 1 jobs, one at a time, that each
go on where the one before stopped; those left over end at once.
"""

from miras_jax.launch import place as places
from miras_jax.launch import quote


def write(job) -> str:
  """The script, for `sbatch`."""
  places.require(job.place, "slurm", tpu=False)
  options = job.options
  gpus = job.place.chips_per_vm
  asked = {"job-name": job.name, "nodes": job.place.slices}
  asked |= {"gpus-per-node": gpus, "ntasks-per-node": gpus}
  for name in ("partition", "account", "time"):
    if value := options.get(name):
      asked[name] = value
  if job.restarts:
    asked["array"] = f"0-{job.restarts}%1"
  asked |= {"signal": f"TERM@{job.grace_s}", "requeue": "", "open-mode": "append"}
  asked["output"] = f"{job.name}-{'%A_%a' if job.restarts else '%j'}.log"
  lines = [f"#SBATCH --{n}{f'={v}' if v != '' else ''}" for n, v in asked.items()]
  venv = options.get("venv")
  path = quote.home(venv) + '/bin:"$PATH"' if venv else ""
  return (
    "#!/usr/bin/env bash\n"
    + "\n".join(lines)
    + "\n"
    + job.header("Every process finds the others through Slurm's own variables.")
    + "set -euo pipefail\n"
    + 'cd "${SLURM_SUBMIT_DIR:?submit this file with sbatch}"\n'
    + (f"export PATH={path}\n" if path else "")
    + f"exec srun --kill-on-bad-exit=1 \\\n  {quote.shell(job.train)}\n"
  )
