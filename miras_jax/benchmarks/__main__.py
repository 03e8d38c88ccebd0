"""`python -m miras_jax.benchmarks`: the same as `miras bench`."""

from miras_jax import cli
from miras_jax.benchmarks.command import main

if __name__ == "__main__":
  cli.run(main)
