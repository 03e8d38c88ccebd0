"""`python -m miras_jax.judge`: the same as `miras judge`."""

from miras_jax import options
from miras_jax.judge.command import main

if __name__ == "__main__":
  options.run(main)
