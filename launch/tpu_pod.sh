#!/usr/bin/env bash
# Trains on every host of a Cloud TPU slice:
#
#   bash launch/tpu_pod.sh NAME ZONE --config=FILE --workdir=DIR
#
# Options are those of `miras train`. Every host has this clone in ~/miras_jax
# (MIRAS_DIR names another folder); data and DIR lie on storage that all hosts share. The
# hosts find each other by themselves. The same line again goes on where it stopped.
set -euo pipefail

if [ "$#" -lt 3 ]; then
  echo "error: want bash launch/tpu_pod.sh NAME ZONE --config=FILE --workdir=DIR" >&2
  exit 1
fi
name="$1" zone="$2"
shift 2

train="$(printf '%q ' "$@")"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd '${MIRAS_DIR:-miras_jax}' && source launch/env.sh tpu && \"\$VENV/bin/miras\" train $train"
