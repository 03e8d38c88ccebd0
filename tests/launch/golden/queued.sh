#!/usr/bin/env bash
# v5p:2x2x4x2: 2 slices of 16 chips, 4 VMs each, 32 devices
# tiny, mesh dcn_data=2 data=16, 64 rows a step, accumulation 1: about 0.1 of 95.7 GiB
# Asks for the slices; each VM then runs the script in the middle.
set -euo pipefail
startup="$(mktemp)"
trap 'rm -f "$startup"' EXIT
cat >"$startup" <<'END'
#!/usr/bin/env bash
# A run that saved and wants to go on, or that a signal ended, is started again.
set -uo pipefail
export HOME=/root
gcloud auth configure-docker eu-docker.pkg.dev --quiet
for attempt in $(seq 0 100); do
  status=0
  docker run \
    --rm \
    --privileged \
    --network=host \
    --stop-timeout=180 \
    --entrypoint=miras \
    eu-docker.pkg.dev/lab/images/miras:1 \
    train \
    --config=configs/miras_7b_stage2.py:size=tiny,attention=xla \
    --workdir=gs://lab/runs/tiny \
    --config.data.dir=/mnt/data/prist \
    --config.init_from=/mnt/data/start \
    --config.batch_size=64 \
    --config.optim.accumulation=1 \
    --config.mesh.dcn_data=2 \
    --config.stopped_exit_code=42 \
    --config.distributed.join_s=1800 || status=$?
  echo "miras: attempt $attempt ended with status $status"
  if [ "$status" -ne 42 ] && [ "$status" -lt 125 ]; then
    exit "$status"
  fi
  sleep 30
done
exit "$status"
END
gcloud compute tpus queued-resources create miras-7b-stage2 \
  --zone=us-east5-a \
  --accelerator-type=v5p-32 \
  --runtime-version=v2-alpha-tpuv5 \
  --node-count=2 \
  --node-prefix=miras-7b-stage2 \
  --spot \
  --metadata-from-file="startup-script=$startup"
