"""`python -m miras_jax.parity`, the same as `miras parity`."""

from miras_jax.cli import run
from miras_jax.parity import main

run(main)
