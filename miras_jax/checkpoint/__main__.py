"""`python -m miras_jax.checkpoint`: the same as `miras checkpoint`."""

from miras_jax import cli
from miras_jax.checkpoint.command import main

if __name__ == "__main__":
  cli.run(main)
