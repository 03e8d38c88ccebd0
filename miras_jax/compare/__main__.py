"""`python -m miras_jax.compare`: the same as `miras compare`."""

from miras_jax import options
from miras_jax.compare.command import main

if __name__ == "__main__":
  options.run(main)
