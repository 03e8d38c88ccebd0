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
# The tests compile much and compute little: without optimisation they take half as long.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=0"
# Two workers share two cores; `worksteal` keeps both busy to the end.
workers="${MIRAS_TEST_WORKERS:-2}"
exec "$VENV/bin/python" -m pytest -n "$workers" --dist worksteal "$@"
