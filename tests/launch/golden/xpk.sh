#!/usr/bin/env bash
# v6e:4x4: 1 slice of 16 chips, 4 VMs each, 16 devices
# tiny, mesh data=16, 64 rows a step, accumulation 1: about 0.1 of 31.2 GiB
xpk workload create \
  --cluster=pods \
  --workload=miras-7b-stage2 \
  --tpu-type=v6e-16 \
  --num-slices=1 \
  --docker-image=eu-docker.pkg.dev/lab/images/miras:1 \
  --max-restarts=100 \
  --restart-on-exit-codes=42 \
  --termination-grace-period-seconds=180 \
  --zone=us-east5-b \
  --priority=high \
  '--command=exec miras train --config=configs/miras_7b_stage2.py:size=tiny,attention=xla --workdir=gs://lab/runs/tiny --config.data.dir=/mnt/data/prist --config.init_from=/mnt/data/start --config.batch_size=64 --config.optim.accumulation=1 --config.stopped_exit_code=42 --config.distributed.join_s=1800'
