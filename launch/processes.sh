#!/usr/bin/env bash
# Runs a command as several processes on this machine that train together:
#
#   bash launch/processes.sh 2 .venv/bin/miras train --config=FILE --workdir=DIR
#
# Each gets JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and its JAX_PROCESS_ID. SIGTERM and
# Ctrl-C reach all of them. The first that fails ends the others; its status is returned.
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

pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < count; i++)); do
  JAX_PROCESS_ID="$i" "$@" &
  pids+=("$!")
done

# Looks instead of waiting: `wait -n` may miss one that ends while a signal is handled.
status=0
while [ "${#pids[@]}" -gt 0 ]; do
  sleep 0.2
  alive=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      alive+=("$pid")
      continue
    fi
    found=0
    wait "$pid" || found="$?"
    if [ "$found" -ne 0 ] && [ "$status" -eq 0 ]; then
      status="$found"
      kill -TERM "${pids[@]}" 2>/dev/null || true
    fi
  done
  pids=("${alive[@]}")
done
exit "$status"
