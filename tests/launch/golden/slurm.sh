#!/usr/bin/env bash
#SBATCH --job-name=miras-7b-stage2
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --partition=gpu
#SBATCH --time=24:00:00
#SBATCH --array=0-6%1
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=miras-7b-stage2-%A_%a.log
# h100:8x4: 4 nodes of 8 GPUs, 32 devices
# tiny, mesh dcn_data=4 data=8, 64 rows a step, accumulation 1: about 0.1 of 74.5 GiB
# Every process finds the others through Slurm's own variables.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this file with sbatch}"
export PATH='/shared/miras venv'/bin:"$PATH"
exec srun --kill-on-bad-exit=1 \
  miras train \
  --config=configs/miras_7b_stage2.py:size=tiny,attention=xla \
  --workdir=gs://lab/runs/tiny \
  --config.data.dir=/mnt/data/prist \
  --config.init_from=/mnt/data/start \
  --config.batch_size=64 \
  --config.optim.accumulation=1 \
  --config.mesh.dcn_data=4
