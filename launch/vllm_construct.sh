#!/usr/bin/env bash
# Conversations by a model on one's own machine: starts vLLM, waits for it, asks it.
#   bash launch/vllm_construct.sh IMAGES MASKS OUT [MODEL]
# Run again after a cut, it goes on: replies are kept in OUT/replies.sqlite.
set -euo pipefail
if (($# < 3)); then
  echo "usage: $0 IMAGES MASKS OUT [MODEL]" >&2
  exit 2
fi
images=$1 masks=$2 out=$3 model=${4:-Qwen/Qwen3-VL-8B-Instruct}
port=${PORT:-8000}

vllm serve "$model" --port "$port" --limit-mm-per-prompt '{"image": 1}' &
server=$!
trap 'kill "$server"' EXIT
until curl --silent --fail --output /dev/null "http://localhost:$port/health"; do
  kill -0 "$server" 2>/dev/null || { echo "vLLM ended" >&2; exit 1; }
  sleep 5
done
miras data construct --images="$images" --masks="$masks" --out="$out" \
  --endpoint="http://localhost:$port/v1" --model="$model" --concurrency=32
miras data check "$out"
