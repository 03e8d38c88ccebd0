#!/usr/bin/env bash
# Runs every test in its own environment: `bash launch/test.sh [pytest arguments]`.
#
# Installs once (`.venv`, or the folder that MIRAS_VENV names) and again only when
# setup.py or pyproject.toml change; works offline after that. Nothing outside the clone
# is touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh test

export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
# The tests compile much and compute little: without optimisation, and with XLA's older
# code generator for fused operations, they take a third of the time. XLA ends at a flag
# it does not know, so this looks for each in its library.
quick() {
  if grep -qs "$1" "$VENV"/lib/python3*/site-packages/jaxlib/libjax_common.so; then
    export XLA_FLAGS="${XLA_FLAGS:-} --$1=$2"
  fi
}
quick xla_backend_optimization_level 0
quick xla_cpu_use_fusion_emitters false
quick xla_cpu_parallel_codegen_split_count 1
# Three workers share two cores, since some tests wait; `worksteal` keeps them busy to
# the end.
workers="${MIRAS_TEST_WORKERS:-3}"
exec "$VENV/bin/python" -m pytest -n "$workers" --dist worksteal "$@"
