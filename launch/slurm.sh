#!/usr/bin/env bash
# Trains on GPU nodes of a Slurm cluster, one process a GPU. From the clone's root:
#
#   sbatch --nodes=4 launch/slurm.sh --config=FILE --workdir=DIR
#
# Options are those of `miras train`; clone, data and DIR lie on storage that all nodes
# share. Three minutes before its time is over the job gets SIGTERM: training saves and
# ends with status 0; submit the same line again to go on. A job that is preempted, or
# loses a node, is requeued and goes on by itself.
#SBATCH --job-name=miras
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=miras-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit it: sbatch --nodes=N launch/slurm.sh --config=...}"
options=("$@")
source launch/env.sh gpu

# Every process finds the others through Slurm's own variables.
exec srun --kill-on-bad-exit=1 "$VENV/bin/miras" train "${options[@]}"
