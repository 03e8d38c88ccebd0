"""`python -m miras_jax.training`: the same as `miras train`."""

from miras_jax import cli
from miras_jax.training.command import main

if __name__ == "__main__":
  cli.run(main)
