"""`python -m miras_jax.parity`: the same as `miras parity`."""

from miras_jax import options
from miras_jax.parity.command import main

if __name__ == "__main__":
  options.run(main)
