#!/usr/bin/env bash
# Runs a command as several processes on this machine that train together:
#
#   bash launch/processes.sh 2 .venv/bin/miras train --config=FILE --workdir=DIR
#
# Each gets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and its JAX_PROCESS_ID. SIGTERM and
# Ctrl-C reach all of them. The status is that of the first that fails, else 0.
set -euo pipefail

if [ "$#" -lt 2 ] || ! [ "$1" -ge 1 ] 2>/dev/null; then
  echo "error: want bash launch/processes.sh COUNT COMMAND..., e.g. 2 miras train ..." >&2
  exit 1
fi
count="$1"
shift

python="${PYTHON:-python3}"
free_port='import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
JAX_COORDINATOR_ADDRESS="127.0.0.1:$("$python" -c "$free_port")"
export JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES="$count"

pids=() interrupted=0
trap 'interrupted=1; kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do
  JAX_PROCESS_ID="$i" "$@" &
  pids+=("$!")
done

# Sets `found` to a process's status. A signal ends `wait` early: then it waits again.
await() {
  while true; do
    interrupted=0 found=0
    wait "$1" || found="$?"
    if [ "$interrupted" -eq 0 ]; then return; fi
  done
}

status=0
for pid in "${pids[@]}"; do
  await "$pid"
  if [ "$status" -eq 0 ]; then status="$found"; fi
done
exit "$status"
