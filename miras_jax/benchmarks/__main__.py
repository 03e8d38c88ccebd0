"""`python -m miras_jax.benchmarks`: the same as `miras bench`."""

from miras_jax import options
from miras_jax.benchmarks.command import main

if __name__ == "__main__":
  options.run(main)
