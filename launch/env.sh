# Sourced by the scripts beside it: `source launch/env.sh EXTRA` from the clone's root.
# Leaves an environment with `.[EXTRA]` installed in $VENV and caches set up inside it.

VENV="${MIRAS_VENV:-$PWD/.venv}"
[[ "$VENV" = /* ]] || VENV="$PWD/$VENV" # the caches in it are for any folder
extra="${1:-}"

# Python's bytecode lies in $VENV, where the environment forbids it beside the sources
# too: without it every process compiles what it imports, one to three seconds.
export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$VENV/pycache}"
unset PYTHONDONTWRITEBYTECODE

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11 or newer found; name one with PYTHON=/path/to/python" >&2
  return 1
}

if [ ! -x "$VENV/bin/python" ]; then
  python="$(find_python)"
  echo "creating $VENV with $python" >&2
  "$python" -m venv "$VENV"
fi

# The stamp holds what was installed: the same files and extra need no second install.
wanted="$(cat setup.py pyproject.toml | sha256sum | cut -c1-16) $PWD"
stamp="$VENV/.miras-installed-${extra:-base}"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
  echo "installing miras_jax${extra:+[$extra]} into $VENV" >&2
  # Modules are compiled when they are first imported, which most never are.
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    --editable ".${extra:+[$extra]}"
  echo "$wanted" >"$stamp"
fi

# Compiled programs are kept between runs: the second run starts in seconds.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$VENV/xla_cache}"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0.5}"
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}"
